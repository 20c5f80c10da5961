"""Health, reflection and draining of any of our servers."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent_service.client import AgentClient, Run
from agent_service.domain.errors import Unavailable
from agent_service.serving.health import check_health
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import raw_stub, report_of
from tests.agent_service.specs import spec
from tests.end_to_end.contracts import CLIENT_ERRORS, codes_of_empty_calls
from tests.end_to_end.processes import AgentProcess, start_in_terminal, wait_for
from tests.given import ServedAgent

SERVICE = "agent_service.v1.AgentService"
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_health_is_told_for_the_server_and_each_service(served: ServedAgent) -> None:
    """SERVING for the whole and by name; NOT_FOUND for what is not served."""
    with grpc.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as raised:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    check_health(served.address, "agent service")


def test_reflection_shows_the_contract(served: ServedAgent) -> None:
    """Every RPC is listed to tools that do not have our .proto files."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    with grpc.insecure_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([request]))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    shown = [m.name for file in files for s in file.service for m in s.method]

    assert set(shown) == {m.name for m in pb.DESCRIPTOR.services_by_name["AgentService"].methods}


def test_every_call_of_the_contract_is_served(stub: AgentServiceStub) -> None:
    """An empty request is answered, or refused as the caller's error."""
    codes = codes_of_empty_calls(pb.DESCRIPTOR.services_by_name["AgentService"], stub)

    assert len(codes) == 15
    assert set(codes.values()) <= CLIENT_ERRORS, codes


def test_a_drained_server_ends_its_streams(
    served: ServedAgent, client: AgentClient, stub: AgentServiceStub
) -> None:
    """Reports that were sent are answered; then streams are told to go elsewhere, not cut."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    silence = threading.Event()

    def reports() -> Iterator[pb.StreamReportsRequest]:
        yield pb.StreamReportsRequest(report=report_of("r"))
        silence.wait(60)

    reporting = stub.StreamReports(reports())
    assert next(reporting).code == 0
    following = stub.StreamTransitions(pb.StreamTransitionsRequest(follow=True), timeout=60)
    next(following)
    served.drain()

    for stream in (reporting, following):
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "is draining" in (raised.value.details() or ""), "it was cut, after a wait"
    silence.set()
    with pytest.raises(Unavailable, match="no agent service"):
        check_health(served.address, "agent service")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A call that hangs holds up the drain; who asks again does not wait for it."""
    with AgentProcess(tmp_path / "agent.db") as agent, raw_stub(agent.address) as stub:
        silence = threading.Event()

        def pieces() -> Iterator[pb.ImportPolicyRequest]:
            silence.wait(60)
            yield from ()

        call = stub.ImportPolicy.future(pieces())
        wait_for(lambda: is_begun(agent, "ImportPolicy"))
        agent.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not serves(agent.address))
        assert agent.process.poll() is None, "the call does not hold up the drain"
        assert agent.stop() == 128 + signal.SIGTERM
        silence.set()
        call.cancel()


def is_begun(agent: AgentProcess, method: str) -> bool:
    with urlopen(agent.metrics) as page:
        text = page.read().decode()
    begun = re.search(f'grpc_server_started_total{{.*grpc_method="{method}".*}} (.*)', text)
    return begun is not None and float(begun[1]) > 0


def serves(address: str) -> bool:
    try:
        check_health(address, "agent service")
    except Unavailable:
        return False
    return True


def test_a_drain_ends_within_seconds_whatever_goes_on(tmp_path: Path) -> None:
    """Callers that never pause, idle streams, imports, followers: no answer lost, no traceback."""
    agent = AgentProcess(tmp_path / "agent.db")
    agent.log = tmp_path / "log"
    with agent:
        with (
            AgentClient(agent.address, budget_seconds=0) as client,
            raw_stub(agent.address) as stub,
        ):
            client.create_controller(spec())
            silence = threading.Event()

            def no_reports() -> Iterator[pb.StreamReportsRequest]:
                silence.wait(60)
                yield from ()

            def half_a_policy() -> Iterator[pb.ImportPolicyRequest]:
                yield pb.ImportPolicyRequest(controller="c", data=b"half")
                silence.wait(60)

            idle: list[Any] = [stub.StreamReports(no_reports()) for _ in range(3)]
            idle += [stub.ImportPolicy.future(half_a_policy()) for _ in range(3)]
            follow = pb.StreamTransitionsRequest(follow=True)
            following = [stub.StreamTransitions(follow, timeout=60) for _ in range(3)]
            runs = [client.run("c", run_id=f"r{number}", when_away=None) for number in range(4)]
            with ThreadPoolExecutor(4) as pool:
                answered = [pool.submit(report_until_away, run) for run in runs]
                wait_for(lambda: all(run.action.chunk_index > 3 for run in runs))
                wait_for(lambda: is_begun(agent, "StreamReports"))
                wait_for(lambda: is_begun(agent, "ImportPolicy"))
                started = time.monotonic()
                assert agent.stop() == 0
                assert time.monotonic() - started < 6  # 5, and what a busy machine adds
            silence.set()
            for call in (*idle, *following):
                call.cancel()
        assert "Traceback" not in agent.log.read_text()
        agent.start()
        with AgentClient(agent.address) as client:
            for run, chunks in zip(runs, answered, strict=True):
                stored = client.get_run(run.run_id).reported_chunks
                assert stored in (chunks.result(), chunks.result() + 1)


@pytest.mark.parametrize("package", ["agent_service", "trainer_service"])
def test_interrupted_in_a_terminal_a_service_ends_without_a_traceback(
    tmp_path: Path, package: str
) -> None:
    """Ctrl-C reaches the processes that it starts, too: while it starts, while they do, later."""
    command = [sys.executable, "-m", package, "serve", "--listen", "127.0.0.1:0"]
    # A trainer service starts its processes with its first run.
    for pause in (None, 0.0, 0.7, 2.0)[: 4 if package == "agent_service" else 2]:
        service = start_in_terminal([*command, "--metrics-port", "0"], cwd=tmp_path)
        assert service.stdout is not None
        if pause is None:
            time.sleep(0.5)
        else:
            assert " service at " in service.stdout.readline()
            time.sleep(pause)
        os.killpg(service.pid, signal.SIGINT)
        _shown, errors = service.communicate(timeout=60)

        assert service.returncode in ((0, -signal.SIGINT) if pause is None else (0,))
        assert "Traceback" not in errors


def report_until_away(run: Run) -> int:
    """Report without a pause until nobody answers; return how many were answered."""
    while True:
        try:
            run.report_chunk([1.0] * 4, training_score=0, validation_score=0)
        except Unavailable:
            return run.action.chunk_index - 1


def test_another_programs_folder_of_metrics_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROMETHEUS_MULTIPROC_DIR may be left over: there, not there, or spelled as it once was."""
    (tmp_path / "theirs").mkdir()
    for name, folder in (
        ("prometheus_multiproc_dir", "gone"),
        ("PROMETHEUS_MULTIPROC_DIR", "theirs"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, str(tmp_path / folder))
            with AgentProcess(tmp_path / "agent.db") as agent, urlopen(agent.metrics) as page:
                assert b"process_start_time_seconds" in page.read()
    assert list((tmp_path / "theirs").iterdir()) == []
