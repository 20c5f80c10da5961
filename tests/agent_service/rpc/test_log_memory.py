"""A log of 64 MB: it passes through in little memory, and readers may stall or leave."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from agent_service.client import AgentClient, RandomSettings, Scores
from agent_service.domain.runs import ChunkReport, Mode, StartRun
from agent_service.domain.store import Durability
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent


def memory(agent: AgentProcess, name: str) -> int:
    """Return a figure of the server's memory in bytes: VmHWM is its peak, VmRSS what it is now."""
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a log of 64 MB of losses, made without a service: large reports are slow."""
    path = tmp_path_factory.mktemp("long") / "agent.db"
    of = spec(algorithm=RandomSettings(), chunk_size=10_000)
    with SqlStore(f"sqlite:///{path}", durability=Durability.PROCESS) as store:
        Catalog(store).create_controller(of, Mode.LEARNING).result()
        run_service = RunService(store, metrics=DecisionMetrics(CollectorRegistry()))
        run_service.start_run(StartRun(controller="c", run_id="r", labels={})).result()
        losses, scores = np.full(of.chunk_size, 0.5), Scores(training=0, validation=0.5)
        for chunk in range(1, 401):
            report = ChunkReport(run_id="r", chunk=chunk, losses=losses, feedback=scores)
            run_service.report_chunk(report).result()
    return path


def test_a_stream_ends_when_its_reader_leaves(long_log: Path) -> None:
    """At once, in the middle of the log and while it waits for more."""
    with ServedAgent(long_log) as served, AgentClient(served.address) as client:
        # More than gRPC has on the way at once, however fast the other end is.
        begun, waiting = client.transitions(), client.follow_transitions(after=400)
        next(begun)
        begun.close()  # type: ignore[attr-defined]
        wait_for(lambda: cancelled_streams(served) == 1)

        next(waiting)
        waiting.close()  # type: ignore[attr-defined]
        wait_for(lambda: cancelled_streams(served) == 2)


def cancelled_streams(served: ServedAgent) -> float:
    labels = {"grpc_method": "StreamTransitions", "grpc_code": "Cancelled"}
    labels |= {"grpc_type": "server_stream", "grpc_service": "agent_service.v1.AgentService"}
    return served.registry.get_sample_value("grpc_server_handled_total", labels) or 0.0


def test_a_long_log_fills_no_memory(long_log: Path) -> None:
    """64 MB of losses pass through; neither side's peak grows by half of that."""
    with AgentProcess(long_log) as agent:
        before = memory(agent, "VmHWM")
        readers = [read_to_end(agent.address, after) for after in (399, 0)]

        assert memory(agent, "VmHWM") - before < 32e6
        assert readers[1] - readers[0] < 32e6


def read_to_end(address: str, after: int) -> int:
    """Return the peak of a reading process's memory, in bytes."""
    code = (
        "from agent_service.client import AgentClient\n"
        f"for step in AgentClient({address!r}).transitions(after={after}): pass"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_a_reader_that_stalls_takes_little_of_the_servers_memory(long_log: Path) -> None:
    """30 streams of 64 MB of losses, each read once and then no more: 5 MiB each at most."""
    with AgentProcess(long_log) as agent:
        list(islice(stalled(agent.address, after=0), 1))
        before = memory(agent, "VmRSS")
        streams = [stalled(agent.address, after=5 * number) for number in range(30)]
        for stream in streams:
            next(stream)

        assert memory(agent, "VmRSS") - before < 150 * 2**20


def stalled(address: str, *, after: int) -> Iterator[pb.StreamTransitionsResponse]:
    """Return a stream whose connection takes no more than what is asked of it."""
    options = [("grpc.http2.lookahead_bytes", 1), ("grpc.use_local_subchannel_pool", 1)]
    stub = AgentServiceStub(grpc.insecure_channel(address, options))
    request = pb.StreamTransitionsRequest(after_position=after, follow=True)
    stream: Iterator[pb.StreamTransitionsResponse] = stub.StreamTransitions(request)
    return stream
