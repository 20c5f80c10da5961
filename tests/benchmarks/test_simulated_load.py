"""The load of the benchmarks: its figures are those of the service that it loads."""

from dataclasses import replace

import pytest

from agent_service.client import AgentClient
from agent_service.domain.errors import NotFound
from agent_service.v1 import agent_pb2 as pb
from tests.benchmarks.bench_agent import spec
from tests.benchmarks.simulated_load import Load, simulate
from tests.given import ServedAgent


@pytest.mark.parametrize(("over_streams", "calls"), [(False, 200), (True, 0)])
def test_its_figures_are_the_services(
    served: ServedAgent, client: AgentClient, over_streams: bool, calls: int
) -> None:
    """As many decisions as the log has reports, in the way that was asked for."""
    client.create_controller(spec("c", 2048))
    load = Load(agent=served.address, controller="c", runs=20, seconds=1, rate=200, chunks=5)
    noted = simulate(replace(load, over_streams=over_streams))

    labels = {
        "grpc_type": "unary",
        "grpc_service": "agent_service.v1.AgentService",
        "grpc_method": "ReportChunk",
    }
    assert served.registry.get_sample_value("grpc_server_started_total", labels) == calls
    assert len(noted.latencies) == sum(1 for _ in client.transitions(controller="c")) == 200
    assert noted.errors == {}
    assert 0 < noted.quantile(0.5) <= noted.quantile(0.99) <= noted.seconds
    # A run of 5 chunks makes room for another.
    states = [run.state for run in client.list_runs(controller="c")]
    assert states.count(pb.RUN_STATE_ACTIVE) == 20
    assert states.count(pb.RUN_STATE_FINISHED) == 40


def test_a_process_that_cannot_start_its_runs_ends_the_load(served: ServedAgent) -> None:
    """By its own error; the others wait for it no longer."""
    with pytest.raises(NotFound, match="nobody"):
        simulate(Load(agent=served.address, controller="nobody", runs=4, seconds=60))
