"""Each limit: what is one too many is RESOURCE_EXHAUSTED, says which, is counted, and passes by."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import grpc
import pytest

from agent_service.client import AgentClient, Outcome
from agent_service.domain.errors import Busy, InvalidArgument, ResourceExhausted
from agent_service.rules.capacity import Capacity
from agent_service.serving.config import ServingConfig
from agent_service.serving.health import check_health
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import report
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent

LIMITS = ("calls", "streams", "message_bytes", "header_bytes")
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CONFIG = ServingConfig(max_message_bytes=2000, max_header_bytes=2000, max_calls=1, max_streams=1)
CAPACITY = Capacity(controllers=2, runs=2, hyperparameters=1, chunk_size=4)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedAgent]:
    with ServedAgent(tmp_path / "agent.db", CONFIG, CAPACITY) as served:
        yield served


def refusals(served: ServedAgent, limit: str) -> float | None:
    return served.registry.get_sample_value("service_limit_refusals_total", {"limit": limit})


def test_controllers_are_limited(served: ServedAgent, client: AgentClient) -> None:
    """A third is refused until one is deleted; one that is there is answered as ever."""
    first = client.create_controller(spec("a"))
    client.create_controller(spec("b"))
    with pytest.raises(ResourceExhausted, match=r"at most 2 controllers \(--max-controllers\)"):
        client.create_controller(spec("c"))
    assert client.create_controller(spec("a")) == first
    assert refusals(served, "controllers") == 1
    client.delete_controller("b")
    client.create_controller(spec("c"))
    assert [c.spec.name for c in client.list_controllers()] == ["a", "c"]


def test_the_size_of_controllers_is_limited(served: ServedAgent, client: AgentClient) -> None:
    """Too many hyperparameters, too long chunks."""
    with pytest.raises(ResourceExhausted, match="--max-hyperparameters"):
        client.create_controller(spec(hyperparameters=(DROPOUT, NOISE)))
    with pytest.raises(ResourceExhausted, match="--max-chunk-size"):
        client.create_controller(spec(chunk_size=5))
    assert refusals(served, "hyperparameters") == refusals(served, "chunk_size") == 1
    assert list(client.list_controllers()) == []


def test_active_runs_are_limited(served: ServedAgent, client: AgentClient) -> None:
    """A third waits until one is finished; those that are there report and start again as ever."""
    client.create_controller(spec())
    one, two = (client.run("c", run_id=name) for name in ("one", "two"))
    with pytest.raises(ResourceExhausted, match=r"at most 2 runs \(--max-runs\)"):
        client.run("c", run_id="three")
    assert refusals(served, "runs") == 1
    assert client.run("c", run_id="one").action == one.action
    report(two)
    one.finish(Outcome.CANCELLED)
    client.run("c", run_id="three")
    assert {run.run_id for run in client.list_runs()} == {"one", "two", "three"}


def test_messages_and_metadata_are_limited(stub: AgentServiceStub) -> None:
    """The core of gRPC refuses them before they are whole."""
    huge = pb.GetRunRequest(run_id="r" * 3000)
    for request, metadata, words in (
        (huge, (), "larger than max"),
        (pb.GetRunRequest(), (("a", "b" * 3000),), "metadata size exceeds"),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            stub.GetRun(request, metadata=metadata, timeout=20)
        assert raised.value.code() is EXHAUSTED
        assert words in (raised.value.details() or "")


def test_calls_in_work_are_limited(
    served: ServedAgent, client: AgentClient, stub: AgentServiceStub, tmp_path: Path
) -> None:
    """One more is told to come again, and the client does; health is answered all the while."""
    client.create_controller(spec())
    with closing(sqlite3.connect(tmp_path / "agent.db", check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # so that a start of a run waits
        first = stub.StartRun.future(pb.StartRunRequest(controller="c", run_id="r"))
        wait_for(lambda: is_in_work(served, "StartRun"))
        with (
            AgentClient(served.address, budget_seconds=0) as hasty,
            pytest.raises(Busy, match=r"limit is 1 concurrent calls \(--max-calls\)"),
        ):
            hasty.get_run("r")
        check_health(served.address, "agent service")
        patient = ThreadPoolExecutor(1).submit(client.get_controller, "c")
        wait_for(lambda: (refusals(served, "calls") or 0) >= 2)
        writer.rollback()
        assert patient.result().spec.name == "c"
        assert first.result().action.chunk_index == 1


def is_in_work(served: ServedAgent, method: str) -> bool:
    labels = {
        "grpc_type": "unary",
        "grpc_service": "agent_service.v1.AgentService",
        "grpc_method": method,
    }
    return served.registry.get_sample_value("grpc_server_started_total", labels) == 1


def test_open_streams_are_limited(
    served: ServedAgent, client: AgentClient, stub: AgentServiceStub
) -> None:
    """A second follower of the log is refused until the first is gone."""
    client.create_controller(spec())
    report(client.run("c", run_id="r"))
    first = stub.StreamTransitions(pb.StreamTransitionsRequest(follow=True))
    next(first)
    with pytest.raises(Busy, match=r"limit is 1 concurrent streams \(--max-streams\)"):
        list(client.transitions())
    assert refusals(served, "streams") == 1
    first.cancel()
    wait_for(lambda: is_let_in(client))


def is_let_in(client: AgentClient) -> bool:
    try:
        return len(list(client.transitions())) == 1
    except Busy:
        return False


def test_each_limit_has_its_metrics(served: ServedAgent) -> None:
    """The page shows each as it is set, and a count from the first scrape on."""
    ours = {name: getattr(CONFIG, f"max_{name}") for name in LIMITS}
    for limit, size in (ours | asdict(CAPACITY)).items():
        assert served.registry.get_sample_value("service_limit", {"limit": limit}) == size
        assert refusals(served, limit) == 0


@pytest.mark.parametrize("field", ["max_calls", "max_streams", "max_message_bytes"])
def test_a_limit_is_at_least_one(field: str) -> None:
    """Zero would refuse everything, and is refused itself."""
    with pytest.raises(InvalidArgument, match=field):
        replace(CONFIG, **{field: 0})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="max_runs"):
        Capacity(runs=0)
