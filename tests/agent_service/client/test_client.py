"""The client in a training script: what it tells, what it keeps, what it says when it cannot."""

import socket
import threading
import time
from concurrent import futures
from datetime import timedelta

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agent_service.client import AgentClient, Run
from agent_service.client.connection import calls as calls_module
from agent_service.domain.errors import InvalidArgument, NotFound, Unavailable
from agent_service.domain.runs import Outcome
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire.status import to_status
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.given import ServedAgent


def test_steps_become_a_chunk(client: AgentClient) -> None:
    """N steps fill it; their losses in order and their mean score are what is reported."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        for loss, score in ((2.0, 0.1), (1.5, 0.2), (1.0, 0.3), (0.5, 0.6)):
            assert not run.chunk_full
            run.step(loss, score=score)
        assert run.chunk_full
        values = run.report(0.25)
        assert values == run.hyperparameters
        assert not run.chunk_full

    (transition,) = client.transitions()
    assert list(transition.next_state) == [2.0, 1.5, 1.0, 0.5]
    assert transition.scores.training == pytest.approx(0.3)
    assert transition.scores.validation == 0.25


def test_tensors_are_told_as_they_are(client: AgentClient) -> None:
    """A loss with a graph is taken, and its graph is let go."""
    client.create_controller(spec())
    weight = torch.ones(1, requires_grad=True)
    with client.run("c") as run:
        for _ in range(4):
            run.step((weight * 3).sum(), score=np.float32(0.5))
        assert not any(loss.requires_grad for loss in run._losses)  # type: ignore[attr-defined]
        run.report(torch.tensor(0.5))

    (transition,) = client.transitions()
    assert list(transition.next_state) == [3.0] * 4


def test_a_wrong_order_is_an_error_in_the_script(client: AgentClient) -> None:
    """A step too many, or a report too early: the message says what to call, nothing is lost."""
    client.create_controller(spec())
    with client.run("c") as run:
        with pytest.raises(RuntimeError, match="0 of 4"):
            run.report(0.5)
        for _ in range(4):
            run.step(1.0, score=0.5)
        with pytest.raises(RuntimeError, match=r"run\.report"):
            run.step(1.0, score=0.5)
        run.report(0.5)

    assert len(list(client.transitions())) == 1


def test_a_refused_report_keeps_its_chunk(client: AgentClient) -> None:
    """A score out of range is refused; reported again with a right one, the chunk is there."""
    client.create_controller(spec())
    with client.run("c") as run:
        for loss in (4.0, 3.0, 2.0, 1.0):
            run.step(loss, score=0.5)
        with pytest.raises(InvalidArgument, match=r"scores\.validation"):
            run.report(1.5)
        run.report(0.5)

    (transition,) = client.transitions()
    assert list(transition.next_state) == [4.0, 3.0, 2.0, 1.0]


def test_losses_of_another_chunk_size_are_refused(client: AgentClient) -> None:
    """With both numbers; the run stands where it stood."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        with pytest.raises(InvalidArgument, match=r"losses: 3 given; .* chunks of 4"):
            run.report_chunk([1.0] * 3, training_score=0.5, validation_score=0.5)
        assert run.action.chunk_index == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.TERMINATED),
        (KeyboardInterrupt, Outcome.CANCELLED),
        (ValueError, Outcome.TRUNCATED),
    ],
)
def test_leaving_a_run_finishes_it(
    client: AgentClient, error: type[BaseException] | None, outcome: Outcome
) -> None:
    """Terminated at its end, cancelled by Ctrl-C, truncated by any other exception."""
    client.create_controller(spec())

    def train() -> None:
        with client.run("c", run_id="r"):
            if error is not None:
                raise error

    if error is None:
        train()
    else:
        with pytest.raises(error):
            train()

    shown = client.get_run("r")
    assert pb.Outcome.Name(shown.outcome) == f"OUTCOME_{outcome.name}"


def test_a_finish_of_the_script_is_kept(client: AgentClient) -> None:
    """With outcome and final score; leaving the run adds nothing."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        run.finish(Outcome.DIVERGED, final_score=0.125)

    assert client.get_run("r").outcome == pb.OUTCOME_DIVERGED
    assert client.get_run("r").final_score == 0.125


def test_an_unknown_controller_is_named(client: AgentClient) -> None:
    """With what to do about it."""
    with pytest.raises(NotFound, match=r"'nobody'; create it first, or .* its spec instead"):
        client.run("nobody")


def test_an_absent_service_is_said_after_the_budget() -> None:
    """The error has the address, the time tried and the command that starts the service."""
    with AgentClient("127.0.0.1:9", budget_seconds=0.3) as client:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 after 0.3 s.*agent-service serve"):
            client.get_controller("c")
        assert time.monotonic() - started >= 0.3


def test_a_service_that_comes_back_in_time_is_not_missed(served: ServedAgent) -> None:
    """A report that is sent while the service is away is answered once it is back."""
    with (
        Network(served.address) as agent,
        AgentClient(agent.address, budget_seconds=60) as client,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        client.create_controller(spec())
        run = client.run("c", run_id="r")
        agent.leave()
        report = pool.submit(run.report_chunk, [1.0] * 4, training_score=0.5, validation_score=0.5)
        with pytest.raises(futures.TimeoutError):
            report.result(0.3)
        agent.come_back()
        assert report.result(60) == run.hyperparameters
        assert client.get_run("r").reported_chunks == 1


class _Flaky(agent_pb2_grpc.AgentServiceServicer):
    """Ends a number of calls with a status, then answers."""

    def __init__(self, failures: int, status: grpc.Status) -> None:
        self.calls = 0
        self.times: list[float] = []
        self.status = status
        self.failures = failures
        self.lock = threading.Lock()

    def GetController(  # noqa: N802
        self, request: pb.GetControllerRequest, context: grpc.ServicerContext
    ) -> pb.GetControllerResponse:
        with self.lock:
            self.calls += 1
            self.times.append(time.monotonic())
            is_failing = self.calls <= self.failures
        if is_failing:
            context.abort_with_status(self.status)
        return pb.GetControllerResponse(controller=pb.Controller(policy_version=5))


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ],
)
def test_a_call_is_tried_again_until_it_is_answered(code: grpc.StatusCode) -> None:
    """Five times in a row, as while a server stops and starts: the script does not notice."""
    plain = status_pb2.Status(code=code.value[0], message="draining")
    servicer = asked(_Flaky(5, rpc_status.to_status(plain)))  # type: ignore[abstract]

    assert servicer.calls == 6


def test_a_call_is_not_sent_again_sooner_than_the_service_asks() -> None:
    """`RetryInfo` of an UNAVAILABLE is honoured, however short the client's own pauses are."""
    status = to_status(Unavailable("the store failed"))
    seconds = 3 * calls_module.FIRST_PAUSE + 0.5
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info), "every UNAVAILABLE of ours says when to come again"
    info.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    status.details[0].Pack(info)
    servicer = asked(_Flaky(1, rpc_status.to_status(status)))  # type: ignore[abstract]

    first, second = servicer.times
    assert second - first >= seconds


def asked(servicer: _Flaky) -> _Flaky:
    """Ask a service until it answers."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    agent_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with AgentClient(f"127.0.0.1:{port}") as client:
            assert client.get_controller("c").policy_version == 5
    finally:
        server.stop(None)
    return servicer


def test_what_is_no_agent_service_is_said_so() -> None:
    """Something else that listens there ends in one error of ours, not in gRPC's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with (
            AgentClient(address, budget_seconds=0.2) as client,
            pytest.raises(Unavailable, match="no agent service"),
        ):
            client.get_controller("c")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)


def test_threads_may_share_a_client(client: AgentClient) -> None:
    """Sixteen threads, one connection, a run each."""
    client.create_controller(spec())

    def train(number: int) -> int:
        with client.run("c", run_id=f"r{number}") as run:
            for _ in range(5):
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
        return client.get_run(f"r{number}").reported_chunks

    with futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(train, range(16))) == [5] * 16


def test_a_script_that_crashed_goes_on_with_its_run(client: AgentClient) -> None:
    """The same run id again: the next chunk is the one that was not reported, under its values."""
    client.create_controller(spec())
    first = client.run("c", run_id="r")
    for _ in range(3):
        first.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
    with client.run("c", run_id="r") as again:
        assert again.action == first.action
        assert again.action.chunk_index == 4
        again.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)

    assert [t.chunk_index for t in client.transitions(run_id="r")] == [1, 2, 3, 4]


def test_a_training_that_goes_on_from_a_checkpoint_is_answered_as_before(
    client: AgentClient,
) -> None:
    """From its first action on, or from any chunk that it reports again; then it goes further."""
    client.create_controller(spec())
    losses = [[float(chunk), 1.0, 1.0, 1.0] for chunk in range(1, 5)]

    def report(run: Run, chunk: int) -> dict[str, float]:
        return run.report_chunk(
            losses[chunk - 1], training_score=0.5, validation_score=0.5, chunk=chunk
        )

    run = client.run("c", run_id="r")
    told = [run.hyperparameters, *(report(run, chunk) for chunk in (1, 2, 3))]

    again = client.run("c", run_id="r")
    again.start_again()
    assert again.hyperparameters == told[0]
    assert report(again, 2) == told[2]
    assert again.action.chunk_index == 3
    assert report(again, 3) == told[3]
    report(again, 4)
    assert [t.chunk_index for t in client.transitions(run_id="r")] == [1, 2, 3, 4]
