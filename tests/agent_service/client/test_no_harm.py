"""Whatever happens to the agent, to a loss or to a run: the training is none the worse for it."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2
from torch import nn

from agent_service.client import AgentClient, Hold, Hyperparameter, Limits, Outcome, Run, Scores
from agent_service.client import delivery as delivery_module
from agent_service.client.connection import calls
from agent_service.client.limits import RunLimiter
from agent_service.client.model import release
from agent_service.domain.errors import (
    AgentError,
    AlreadyExists,
    Failed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from agent_service.domain.rewards import Reward
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import status
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.given import ServedAgent

NOBODY = "127.0.0.1:9"
HELD = Hold(values={"dropout": 0.25})


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.25), nn.Linear(8, 3))


def rate(model: nn.Sequential) -> Any:
    return model[1].p


def steps(run: Run, *losses: float) -> None:
    for loss in losses:
        run.step(loss, score=0.5)


def chunk(run: Run) -> None:
    steps(run, 2.0, 1.5, 1.0, 0.5)
    run.report(0.5)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_not_the_training(
    client: AgentClient, loss: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As diverged, with the worst reward; the model has its own rate, and more steps are fine."""
    client.create_controller(spec())
    model = network()
    with client.run("c", run_id="r", model=model) as run:
        chunk(run)
        steps(run, 1.0, loss, 1.0, 1.0)
        run.report(0.5)
        assert run.is_finished
        assert rate(model) == 0.25
        for _ in range(2):
            chunk(run)
            assert not run.chunk_full

    assert client.get_run("r").outcome == pb.OUTCOME_DIVERGED
    assert [t.reward for t in client.transitions(run_id="r")] == [0.0, -1.0]
    assert [r.levelname for r in caplog.records if "not finite" in r.message] == ["WARNING"]


def test_a_training_that_stops_at_such_a_loss_has_diverged(client: AgentClient) -> None:
    """By a break or by an exception of its own, in the middle of a chunk."""
    client.create_controller(spec())
    with client.run("c", run_id="break") as run:
        steps(run, 1.0, math.nan)

    def checked() -> None:
        with client.run("c", run_id="raise") as run:
            steps(run, math.inf)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        checked()
    with client.run("c", run_id="limited", limits=Limits(spike=3)) as run:
        steps(run, math.nan)

    assert client.get_run("break").outcome == pb.OUTCOME_DIVERGED
    assert client.get_run("raise").outcome == pb.OUTCOME_DIVERGED
    assert client.get_run("limited").outcome == pb.OUTCOME_TERMINATED


def test_a_diverged_end_that_was_not_told_may_be_told_again(served: ServedAgent) -> None:
    """Where the script wants to know of an agent that is away: its run is diverged, not cut off."""
    with (
        Network(served.address) as agent,
        AgentClient(agent.address, budget_seconds=2) as client,
    ):
        client.create_controller(spec())
        run = client.run("c", run_id="r", when_away=None)
        steps(run, 1.0, math.nan, 1.0, 1.0)
        agent.leave()
        with pytest.raises(Unavailable):
            run.report(0.5)
        agent.come_back()
        client.wait_ready(20)

        run.finish()

        assert client.get_run("r").outcome == pb.OUTCOME_DIVERGED


def test_a_chunk_that_cannot_be_reported_is_dropped(client: AgentClient) -> None:
    """One whose score is not finite, and one that the script drops; the next is the same chunk."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        chunk(run)
        before = run.action
        steps(run, 1.0, 1.0, 1.0, 1.0)
        run.report(math.nan)
        steps(run, 1.0, 1.0, 1.0, 1.0)
        with pytest.raises(InvalidArgument, match=r"scores\.validation"):
            run.report(50.0)
        run.drop_chunk()
        assert run.action == before
        chunk(run)
        run.finish(final_score=math.nan)

    log = list(client.transitions(run_id="r"))
    assert [list(t.next_state) for t in log] == [[2.0, 1.5, 1.0, 0.5]] * 2
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_scores_that_rounding_puts_outside_their_range_are_at_its_ends(
    client: AgentClient,
) -> None:
    """As half precision does a mean; what is farther outside is a mistake of the script."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        for training, validation in ((1.0009765625, -1e-9), (-1e-7, 1.0 + 1e-6)):
            run.report_chunk([1.0] * 4, training_score=training, validation_score=validation)
        steps(run, 1.0, 1.0, 1.0, 1.0)
        for outside in (1.002, -0.002):
            with pytest.raises(InvalidArgument, match=r"scores\.validation"):
                run.report(outside)

    log = client.transitions(run_id="r")
    assert [(t.scores.training, t.scores.validation) for t in log] == [(1.0, 0.0), (0.0, 1.0)]


def test_the_first_report_of_the_wrong_kind_names_the_call_to_make(client: AgentClient) -> None:
    """A score where a reward is due, and the reverse; the chunk is kept for that call."""
    client.create_controller(spec())
    client.create_controller(spec("given", reward=Reward.GIVEN))
    with client.run("given", run_id="g") as run:
        steps(run, 1.0, 1.0, 1.0, 1.0)
        with pytest.raises(InvalidArgument, match=r"run\.report_reward\(losses, reward\)"):
            run.report(0.5)
        assert run.chunk_full
        run.report_reward([1.0] * 4, 0.5)
        steps(run, 1.0, 1.0, 1.0, 1.0)
        run.report_reward([1.0] * 4, 0.5)
    with client.run("c", run_id="c") as run:
        steps(run, 1.0, 1.0, 1.0, 1.0)
        with pytest.raises(InvalidArgument, match=r"run\.report\(validation\)"):
            run.report_reward([1.0] * 4, 0.5)
        run.report(0.5)

    assert [client.get_run(run_id).reported_chunks for run_id in "gc"] == [2, 1]


@pytest.mark.parametrize("when_away", [None, HELD])
def test_the_scripts_own_exception_is_what_it_ends_with(when_away: Hold | None) -> None:
    """Where the agent went away: nothing replaces it, and nothing is chained to it."""
    with AgentClient(NOBODY, budget_seconds=0.1) as client:
        run = client.run(spec(), when_away=HELD)
        run._delivery._hold = when_away  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError) as raised, run:
            raise ZeroDivisionError

    assert raised.value.__context__ is None


class Interrupted:
    """A delivery of which Ctrl-C is pressed as it tells the end."""

    is_shared = False
    ends = 0

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        self.ends += 1
        raise KeyboardInterrupt

    def flush(self) -> None: ...


def test_ctrl_c_ends_an_end_at_once() -> None:
    """It is the script's exception where there is none; no end is tried a second time."""
    first = pb.Action(values={"dropout": 0.25}, chunk_index=1)
    for own, expected in ((None, KeyboardInterrupt), (ValueError, ValueError)):
        delivery: Any = Interrupted()
        run = Run(delivery, run_id="r", chunk_size=4, action=first)
        with pytest.raises(expected):
            end(run, own)
        assert delivery.ends == 1


def end(run: Run, own: type[Exception] | None) -> None:
    with run:
        if own is not None:
            raise own
        run.finish()


@pytest.mark.parametrize("kind", [NotFound, AlreadyExists, FailedPrecondition])
def test_a_run_that_the_agent_refuses_ends_without_an_error(
    client: AgentClient,
    kind: type[AgentError],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deleted, told otherwise, or finished by somebody else: one warning, and the own rate."""
    client.create_controller(spec())
    model = network()
    with client.run("c", model=model) as run:
        chunk(run)
        monkeypatch.setattr(run._delivery, "_call", raising(kind("it is gone")))
        for _ in range(3):
            chunk(run)
        assert run.is_finished
        assert rate(model) == 0.25

    assert caplog.text.count("it is gone") == 1


def raising(error: AgentError) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "kind",
    [Unavailable, Unauthenticated, PermissionDenied, ResourceExhausted, AgentError, Failed],
)
def test_what_may_come_right_is_held(
    client: AgentClient,
    kind: type[AgentError],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token that is renewed, a disk that is full: one warning, and all is delivered later."""
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.0)
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        chunk(run)
        with monkeypatch.context() as broken:
            broken.setattr(run._delivery, "_call", raising(kind("not now")))
            for _ in range(3):
                chunk(run)
        chunk(run)

    assert [t.chunk_index for t in client.transitions(run_id="r")] == [1, 2, 3, 4, 5]
    assert caplog.text.count("not now") == 1


@pytest.mark.parametrize(
    "action",
    [
        pb.Action(chunk_index=2),
        pb.Action(values={"other": 0.1}, chunk_index=2),
        pb.Action(values={"dropout": 0.1}, chunk_index=0),
    ],
)
def test_an_answer_that_makes_no_sense_is_as_none(
    client: AgentClient, action: pb.Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is held, and delivered once the agent is itself again; a stream is no other."""
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.0)
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        with monkeypatch.context() as broken:
            bad = pb.ReportChunkResponse(action=action)
            broken.setattr(run._delivery._calls, "call", lambda *_, **__: bad)  # type: ignore[attr-defined]
            chunk(run)
            assert run.action.values.keys() == {"dropout"}
        chunk(run)

    assert client.get_run("r").reported_chunks == 2


def test_a_start_that_fails_leaves_the_model_as_it_was(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, and however late."""
    client.create_controller(spec())
    model = network()

    def fail(_limiter: object, _values: object) -> None:
        raise KeyError

    monkeypatch.setattr(RunLimiter, "limited", fail)
    with pytest.raises(KeyError):
        client.run("c", model=model)
    assert "__reduce_ex__" not in vars(model[1])
    assert rate(model) == 0.25


def test_details_that_cannot_be_read_are_as_none() -> None:
    """Those of another error, half of them, and values that no service of ours sends."""
    negative = error_details_pb2.RetryInfo(retry_delay={"seconds": -5})
    chunk_of = error_details_pb2.ErrorInfo(metadata={"expected_chunk": "abc"})
    for details in (b"\xff\xff\xff", packed(8), packed(14, negative), packed(14, chunk_of)):
        error: Any = refusal(grpc.StatusCode.UNAVAILABLE, details)
        assert status.retry_seconds(error) == 0.0
        assert isinstance(status.from_rpc_error(error), Unavailable)
    error = refusal(grpc.StatusCode.FAILED_PRECONDITION, packed(9, chunk_of))
    refused = status.from_rpc_error(error)
    assert isinstance(refused, FailedPrecondition)
    assert refused.expected_chunk is None


def packed(code: int, *details: Any) -> bytes:
    message = status_pb2.Status(code=code, message="no")
    for detail in details:
        message.details.add().Pack(detail)
    return bytes(message.SerializeToString())


class Refusal(grpc.RpcError, grpc.Call):
    """A failed call with these details."""

    def __init__(self, code: grpc.StatusCode, details: bytes) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "no"

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._details),)


Refusal.__abstractmethods__ = frozenset()
refusal: Any = Refusal


def test_an_agent_that_never_answers_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten hours of it, a report a second: less than a hundredth of the time is spent on looking."""
    monkeypatch.setattr(delivery_module, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 2.0)
    now, spent = 0.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    hours = 36_000

    def call(_request: object, *, within: float) -> None:
        nonlocal now, spent
        now, spent = now + within, spent + within
        raise Unavailable("silence")

    with AgentClient(NOBODY, budget_seconds=0) as client:
        run = client.run(spec(), when_away=HELD)
        with monkeypatch.context() as silent:
            silent.setattr(run._delivery, "_call", call)
            for _ in range(hours):
                now += 1.0
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)

    assert 100 * 0.5 < spent < hours / 100


def test_the_calls_of_a_start_share_one_patience(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slow answers keep a training waiting no longer than one; each report has its own."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    now, left = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    call = client._calls.call

    def slow(method: Any, request: Any, *, within: float) -> Any:
        nonlocal now
        left.append(within)
        now += 12.0
        return call(method, request)

    monkeypatch.setattr(client._calls, "call", slow)
    run = client.run("c", run_id="r")
    chunk(run)
    chunk(run)

    assert left == [20.0, 8.0, calls.LEAST_SECONDS, 20.0, 20.0]


@pytest.mark.parametrize(("answer", "warnings"), [(1.5, 1), (0.1, 0)])
def test_an_agent_that_keeps_a_training_waiting_is_told_of_once(
    client: AgentClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: float,
    warnings: int,
) -> None:
    """Where its answers take more than a tenth of the time: nothing fails, and nobody would see."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    now, call = 0.0, client._calls.call
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(method: Any, request: Any, *, within: float) -> Any:
        nonlocal now
        now += answer
        return call(method, request, within=within)

    monkeypatch.setattr(client._calls, "call", slow)
    monkeypatch.setattr(run._delivery, "_began", 0.0)  # on this test's clock
    for _ in range(20):
        now += 2.0
        chunk(run)

    assert [m for m in caplog.messages if "answers slowly" in m] == caplog.messages
    assert len(caplog.messages) == warnings


def test_an_agent_that_comes_and_goes_costs_little(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails every other call, each after all patience: it is tried ever less often."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    now, spent, calls_made, call = 0.0, 0.0, 0, client._calls.call
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 2.0)

    def flapping(method: Any, request: Any, *, within: float) -> Any:
        nonlocal now, spent, calls_made
        calls_made += 1
        if calls_made % 2:
            return call(method, request, within=20.0)
        now += within
        spent += within
        raise Unavailable("silence")

    monkeypatch.setattr(client._calls, "call", flapping)
    hour = 3_600
    for _ in range(hour):
        now += 1.0
        chunk(run)

    assert 10 < spent < hour / 50
    assert calls_made > 20


def test_an_agent_slower_than_a_look_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers within the patience of a call; a look in three waits as long."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    availability = delivery_module.Availability()
    monkeypatch.setattr(delivery_module, "TRY_SECONDS", 0.5)
    tried = []
    for _ in range(6):
        tried.append(availability.patience())
        availability.failed(Unavailable("silence"))

    assert tried == [20.0, 0.5, 20.0, 0.5, 0.5, 20.0]


def test_each_outage_has_its_own_time_for_ends() -> None:
    """Also one in which nothing but ends failed."""
    availability = delivery_module.Availability()
    availability.end_seconds = 0.0

    availability.answered()

    assert availability.end_seconds == delivery_module.END_SECONDS


def test_an_absent_agent_draws_nothing_of_the_trainings_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Retries pause for random times, from a generator of the client's own."""
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(delivery_module, "END_SECONDS", 0.3)

    def states() -> list[str]:
        drawn = np.random.get_state(legacy=False)["state"]["key"]
        return [str(random.getstate()), str(drawn.tolist()), str(torch.get_rng_state().tolist())]

    before = states()
    with AgentClient(NOBODY) as client, client.run(spec(), when_away=HELD) as run:
        chunk(run)

    assert states() == before


def test_a_controller_that_does_not_fit_the_model_is_not_made(client: AgentClient) -> None:
    """Its name is free for the spec that is meant."""
    drawn = [Hyperparameter(name="dropout", low=0.0, high=high) for high in (1.5, 0.5)]
    wrong, right = (spec(hyperparameters=(one,)) for one in drawn)
    with pytest.raises(InvalidArgument, match="dropout"):
        client.run(wrong, model=network())

    with client.run(right, model=network()) as run:
        assert run.hyperparameters.keys() == {"dropout"}


def test_values_that_nobody_decided_are_reported_as_the_trainings_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in a training that starts again, which runs under them a second time."""
    for seconds in ("PATIENCE", "END"):
        monkeypatch.setattr(delivery_module, f"{seconds}_SECONDS", 0.3)
    with AgentClient(NOBODY) as client, client.run(spec(), when_away=HELD) as run:
        chunk(run)
        run.start_again()

        request = run.request([1.0] * 4, Scores(training=0.5, validation=0.5))

    assert request is not None
    assert (request.chunk_index, dict(request.applied.values)) == (1, HELD.values)


def test_a_training_with_a_model_begins_without_the_agent(served: ServedAgent) -> None:
    """Under its own rates; its run begins once the agent answers, and drives it from then on."""
    with Network(served.address) as agent:
        with AgentClient(agent.address) as client:
            client.create_controller(spec())
        agent.leave()
        model = network()
        with AgentClient(agent.address, budget_seconds=0.1) as client:
            with client.run("c", run_id="r", model=model) as run:
                for _ in range(60):
                    run.step(1.0, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
                    assert not run.chunk_full
                    assert run.report(0.5) == {}
                assert rate(model) == 0.25
                assert "nothing is driven: the run has not started" in str(run.describe())
                agent.come_back()
                client.wait_ready(20)
                while not run.chunk_full:
                    run.step(1.0, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
                assert rate(model) == run.hyperparameters["dropout"]
                assert "dropout drives\n  1:p (0.25)" in str(run.describe())
                run.report(0.5)

            assert rate(model) == 0.25
            assert client.get_run("r").reported_chunks == 1
            assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_a_run_that_never_begins_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Twice: as it cannot begin, and at its end."""
    caplog.set_level(logging.WARNING, "agent_service.client")
    with (
        AgentClient(NOBODY, budget_seconds=0.1) as client,
        client.run("c", run_id="r", model=network()) as run,
    ):
        steps(run, *[1.0] * 60)

        assert math.isnan(run.hyperparameters["dropout"])

    assert ["starts" in r.message for r in caplog.records] == [True, False]
    assert "run r never started" in caplog.text


def test_a_run_id_that_has_finished_is_refused_at_its_start(client: AgentClient) -> None:
    """With its outcome, and the model as it was; a training that repeats its chunks may say so."""
    client.create_controller(spec())
    model = network()
    with client.run("c", run_id="r", model=model) as run:
        chunk(run)
    with pytest.raises(FailedPrecondition, match=r"'r' is finished \(terminated\).*another run_id"):
        client.run("c", run_id="r", model=model)
    assert rate(model) == 0.25

    again = client.run("c", run_id="r", is_repeated=True)
    again.start_again()
    chunk(again)
    assert again.action.chunk_index == 2
    again.finish(Outcome.TERMINATED)


def test_a_model_whose_run_is_lost_is_free(client: AgentClient) -> None:
    """By `release`, which the error names; or as soon as nothing refers to the run."""
    client.create_controller(spec())
    model = network()
    kept = client.run("c", model=model)
    with pytest.raises(InvalidArgument, match=r"release\(model\)"):
        client.run("c", model=model)
    release(model)
    assert rate(model) == 0.25

    lost = client.run("c", model=model)
    kept.finish()
    assert rate(model) == lost.hyperparameters["dropout"]
    del lost
    assert rate(model) == 0.25
    with client.run("c", model=model) as run:
        assert rate(model) == run.hyperparameters["dropout"]


def test_a_client_that_was_closed_first_costs_no_training(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends, its model has its own rates again, and the mistake is told once."""
    client.create_controller(spec())
    model = network()
    with client.run("c", run_id="r", model=model) as run:
        client.close()
        chunk(run)
        assert run.is_finished
        assert rate(model) == 0.25

    assert caplog.text.count("run r ends: its client was closed during the training") == 1


@pytest.mark.parametrize("when_away", [None, Hold(), Hold(values={"dropout": 0.2})])
def test_a_closed_client_starts_no_run(client: AgentClient, when_away: Hold | None) -> None:
    """It is not an agent that is away: the script is wrong, and nothing is trained yet."""
    client.close()
    with pytest.raises(FailedPrecondition, match="is closed; create another"):
        client.run(spec(), model=network(), when_away=when_away)
