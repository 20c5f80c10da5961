"""The client in a training script: steps, chunks, reports, retries, and runs that continue."""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from datetime import timedelta

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agent_service.client import AgentClient, Run
from agent_service.client.connection import calls as calls_module
from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Outcome
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire.status import to_status
from tests.agent_service.client.network import Network


def test_n_steps_are_reported_as_a_chunk(client: AgentClient) -> None:
    """Losses in order and the mean score, numbers or tensors, without graphs; in turn only."""
    with client.run("c", run_id="r") as run:
        with pytest.raises(RuntimeError, match="0 of 4"):
            run.report(0.5)
        weight = torch.ones(1, requires_grad=True)
        for loss, score in (
            (2.0, 0.1),
            (1.5, np.float32(0.2)),
            ((weight * 1).sum(), 0.3),
            (0, 0.6),
        ):
            assert not run.chunk_full
            run.step(loss, score=score)
        assert run.chunk_full
        assert not any(getattr(loss, "requires_grad", False) for loss in run._losses)
        with pytest.raises(RuntimeError, match=r"run\.report"):
            run.step(1.0, score=0.5)
        values = run.report(torch.tensor(0.25))
        assert values == run.hyperparameters
        assert not run.chunk_full

    (transition,) = client.transitions()
    assert list(transition.next_state) == [2.0, 1.5, 1.0, 0.0]
    assert transition.scores.training == pytest.approx(0.3)
    assert transition.scores.validation == 0.25


def interrupt(_run: Run) -> None:
    raise KeyboardInterrupt


def crash(_run: Run) -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("end", "outcome", "score"),
    [
        (lambda _run: None, Outcome.TERMINATED, 0.0),
        (interrupt, Outcome.CANCELLED, 0.0),
        (crash, Outcome.TRUNCATED, 0.0),
        (lambda run: run.finish(Outcome.DIVERGED, final_score=0.125), Outcome.DIVERGED, 0.125),
    ],
)
def test_leaving_a_run_finishes_it(
    client: AgentClient, end: Callable[[Run], None], outcome: Outcome, score: float
) -> None:
    """Terminated at its end, cancelled by Ctrl-C, truncated by others, or as the script said."""
    with suppress(KeyboardInterrupt, ValueError), client.run("c", run_id="r") as run:
        end(run)

    finished = client.get_run("r")
    assert pb.Outcome.Name(finished.outcome) == f"OUTCOME_{outcome.name}"
    assert finished.final_score == score


def test_an_absent_service_raises_after_the_budget() -> None:
    """With its address, the time rounded for a reader, and the command that starts it."""
    with AgentClient("127.0.0.1:9", budget_seconds=0.2999998) as client:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 after 0.3 s.*agent-service serve"):
            client.get_controller("c")
        assert time.monotonic() - started >= 0.2999998


def test_a_service_that_comes_back_in_time_is_not_missed(agent: Network) -> None:
    """A report sent while the service is away is answered once it is back."""
    with (
        AgentClient(agent.address, budget_seconds=60) as client,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        run = client.run("c", run_id="r")
        agent.leave()
        report = pool.submit(run.report_chunk, [1.0] * 4, training_score=0.5, validation_score=0.5)
        with pytest.raises(futures.TimeoutError):
            report.result(0.3)
        agent.come_back()
        assert report.result(60) == run.hyperparameters
        assert client.get_run("r").reported_chunks == 1


class _Flaky(agent_pb2_grpc.AgentServiceServicer):
    """Fails a number of calls with a status, then answers."""

    def __init__(self, failures: int, status: grpc.Status) -> None:
        self.times: list[float] = []
        self._status = status
        self._failures = failures
        self._lock = threading.Lock()

    def GetController(  # noqa: N802
        self, request: pb.GetControllerRequest, context: grpc.ServicerContext
    ) -> pb.GetControllerResponse:
        with self._lock:
            self.times.append(time.monotonic())
            is_failing = len(self.times) <= self._failures
        if is_failing:
            context.abort_with_status(self._status)
        return pb.GetControllerResponse(controller=pb.Controller(policy_version=5))


def times_of_calls(failures: int, status: status_pb2.Status) -> list[float]:
    """Call a service that fails at first until it answers; return the times of its calls."""
    servicer = _Flaky(failures, rpc_status.to_status(status))  # type: ignore[abstract]
    server = grpc.server(futures.ThreadPoolExecutor(2))
    agent_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with AgentClient(f"127.0.0.1:{port}") as client:
            assert client.get_controller("c").policy_version == 5
    finally:
        server.stop(None)
    return servicer.times


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ],
)
def test_a_call_is_retried_until_it_is_answered(code: grpc.StatusCode) -> None:
    """Five times in a row, as while a server restarts, unnoticed by the script."""
    plain = status_pb2.Status(code=code.value[0], message="draining")

    assert len(times_of_calls(5, plain)) == 6


def test_a_retry_waits_as_long_as_the_service_asks() -> None:
    """By the `RetryInfo` of its errors, if that is longer than the client's own pauses."""
    status = to_status(Unavailable("the store failed"))
    seconds = 3 * calls_module.FIRST_PAUSE + 0.5
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info), "our UNAVAILABLE always has it"
    info.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    status.details[0].Pack(info)

    first, second = times_of_calls(1, status)
    assert second - first >= seconds


def test_threads_may_share_a_client(client: AgentClient) -> None:
    """Sixteen threads, one connection, one run each."""

    def train(number: int) -> list[int]:
        with client.run("c", run_id=f"r{number}") as run:
            for _ in range(5):
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
        return [t.chunk_index for t in client.transitions(run_id=f"r{number}")]

    with futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(train, range(16))) == [[1, 2, 3, 4, 5]] * 16


def test_a_run_continues_in_another_script(client: AgentClient) -> None:
    """By its id: with the chunk that was not reported, or from any reported chunk again.

    As after a crash, or from a checkpoint; equal reports get the same answers.
    """
    losses = [[float(chunk), 1.0, 1.0, 1.0] for chunk in range(1, 5)]

    def report(run: Run, chunk: int) -> dict[str, float]:
        return run.report_chunk(
            losses[chunk - 1], training_score=0.5, validation_score=0.5, chunk=chunk
        )

    run = client.run("c", run_id="r")
    values = [run.hyperparameters, *(report(run, chunk) for chunk in (1, 2, 3))]

    again = client.run("c", run_id="r")
    assert again.action == run.action
    assert again.action.chunk_index == 4
    again.start_again()
    assert again.hyperparameters == values[0]
    assert report(again, 2) == values[2]
    assert again.action.chunk_index == 3
    assert report(again, 3) == values[3]
    report(again, 4)
    assert [t.chunk_index for t in client.transitions(run_id="r")] == [1, 2, 3, 4]
