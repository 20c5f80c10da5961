"""Whatever happens to the agent, to a loss or to a run, the training is not harmed."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from agent_service.client import (
    AgentClient,
    Hold,
    Hyperparameter,
    Limits,
    Outcome,
    Problem,
    Run,
    Scores,
)
from agent_service.client import delivery as delivery_module
from agent_service.client.connection import calls
from agent_service.client.model import release
from agent_service.domain import errors
from agent_service.domain.rewards import Reward
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec

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


# Losses and scores


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_not_the_training(
    client: AgentClient, loss: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As diverged, with the worst reward; the model is restored, and more steps do nothing."""
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
    """By a break or an exception of its own within a chunk; not if `spike` allows such losses."""
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


def test_a_diverged_end_that_was_not_delivered_can_be_sent_again(agent: Network) -> None:
    """With `when_away=None` it raises while the agent is away; the run still ends as diverged."""
    with AgentClient(agent.address, budget_seconds=2) as client:
        run = client.run("c", run_id="r", when_away=None)
        steps(run, 1.0, math.nan, 1.0, 1.0)
        agent.leave()
        with pytest.raises(errors.Unavailable):
            run.report(0.5)
        agent.come_back()
        client.wait_ready(20)

        run.finish()

        assert client.get_run("r").outcome == pb.OUTCOME_DIVERGED


def test_a_chunk_that_cannot_be_reported_is_kept_or_dropped(client: AgentClient) -> None:
    """Kept after an error, for another report or for `drop_chunk`; dropped if a score is NaN."""
    with client.run("c", run_id="r") as run:
        steps(run, 2.0, 1.5, 1.0, 0.5)
        with pytest.raises(errors.InvalidArgument, match=r"scores\.validation"):
            run.report(50.0)
        run.report(0.5)
        before = run.action
        steps(run, 1.0, 1.0, 1.0, 1.0)
        run.report(math.nan)
        steps(run, 1.0, 1.0, 1.0, 1.0)
        run.drop_chunk()
        assert run.action == before
        chunk(run)
        run.finish(final_score=math.nan)

    log = list(client.transitions(run_id="r"))
    assert [list(t.next_state) for t in log] == [[2.0, 1.5, 1.0, 0.5]] * 2
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_scores_outside_their_range_by_rounding_are_clipped(client: AgentClient) -> None:
    """As a mean in half precision may be; scores farther outside are refused."""
    with client.run("c", run_id="r") as run:
        for training, validation in ((1.0009765625, -1e-9), (-1e-7, 1.0 + 1e-6)):
            run.report_chunk([1.0] * 4, training_score=training, validation_score=validation)
        steps(run, 1.0, 1.0, 1.0, 1.0)
        for outside in (1.002, -0.002):
            with pytest.raises(errors.InvalidArgument, match=r"scores\.validation"):
                run.report(outside)

    log = client.transitions(run_id="r")
    assert [(t.scores.training, t.scores.validation) for t in log] == [(1.0, 0.0), (0.0, 1.0)]


def test_a_report_of_the_wrong_kind_names_the_right_call(client: AgentClient) -> None:
    """A score instead of a reward, and the reverse; the chunk is kept for that call."""
    client.create_controller(spec("given", reward=Reward.GIVEN))
    with client.run("given") as run:
        for _ in range(2):
            steps(run, 1.0, 1.0, 1.0, 1.0)
            with pytest.raises(
                errors.InvalidArgument, match=r"run\.report_reward\(losses, reward\)"
            ):
                run.report(0.5)
            assert run.chunk_full
            run.report_reward([1.0] * 4, 0.5)
    with client.run("c") as run:
        with pytest.raises(errors.InvalidArgument, match=r"run\.report\(validation\)"):
            run.report_reward([1.0] * 4, 0.5)
        chunk(run)


# Exceptions and errors


@pytest.mark.parametrize("when_away", [None, HELD])
def test_the_scripts_own_exception_is_not_replaced(when_away: Hold | None) -> None:
    """If the agent is away, nothing is chained to it either."""
    with AgentClient(NOBODY, budget_seconds=0.1) as client:
        run = client.run(spec(), when_away=HELD)
        run._delivery._hold = when_away  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError) as raised, run:
            raise ZeroDivisionError

    assert raised.value.__context__ is None


@pytest.mark.parametrize(("own", "raised"), [(None, KeyboardInterrupt), (ValueError, ValueError)])
def test_ctrl_c_during_the_end_of_a_run_is_not_retried(
    own: type[Exception] | None, raised: type[BaseException]
) -> None:
    """It reaches the script, unless the script has raised an exception of its own."""
    delivery = Mock(is_shared=False, finish=Mock(side_effect=KeyboardInterrupt))
    first = pb.Action(values={"dropout": 0.25}, chunk_index=1)

    def train() -> None:
        with Run(delivery, run_id="r", chunk_size=4, action=first) as run:
            if own is not None:
                raise own
            run.finish()

    with pytest.raises(raised):
        train()
    assert delivery.finish.call_count == 1


@pytest.mark.parametrize("kind", [errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition])
def test_a_run_that_the_agent_refuses_ends_without_an_error(
    client: AgentClient,
    kind: type[errors.AgentError],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deleted, in conflict, or finished elsewhere: one warning, and the model is restored."""
    model = network()
    with client.run("c", model=model) as run:
        chunk(run)
        monkeypatch.setattr(run._delivery, "_call", Mock(side_effect=kind("it is gone")))
        for _ in range(3):
            chunk(run)
        assert run.is_finished
        assert rate(model) == 0.25

    assert caplog.text.count("it is gone") == 1


@pytest.mark.parametrize(
    "kind",
    [
        errors.Unavailable,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.ResourceExhausted,
        errors.AgentError,
        errors.Failed,
    ],
)
def test_reports_are_queued_for_errors_that_may_pass(
    client: AgentClient,
    kind: type[errors.AgentError],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An expired token, a full disk: one warning, and all reports are delivered later."""
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.0)
    with client.run("c", run_id="r") as run:
        chunk(run)
        with monkeypatch.context() as broken:
            broken.setattr(run._delivery, "_call", Mock(side_effect=kind("not now")))
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
def test_an_invalid_answer_counts_as_no_answer(
    client: AgentClient, action: pb.Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is queued, and delivered once the agent answers validly."""
    monkeypatch.setattr(delivery_module, "SHORTEST_WAIT", 0.0)
    with client.run("c", run_id="r") as run:
        with monkeypatch.context() as broken:
            bad = pb.ReportChunkResponse(action=action)
            broken.setattr(run._delivery._calls, "call", lambda *_, **__: bad)  # type: ignore[attr-defined]
            chunk(run)
            assert run.action.values.keys() == {"dropout"}
        chunk(run)

    assert client.get_run("r").reported_chunks == 2


# Time


class Clock:
    """The time that the client sees; calls of a slowed client spend it."""

    now = 0.0
    spent = 0.0

    def slow(
        self, patch: pytest.MonkeyPatch, client: AgentClient, answer: Callable[[float], float]
    ) -> None:
        """Let each call take `answer(within)` seconds, and fail if that is not below `within`."""
        call = client._calls.call

        def slow(method: Any, request: Any, *, within: float) -> Any:
            seconds = answer(within)
            self.now += seconds
            self.spent += seconds
            if seconds >= within:
                raise errors.Unavailable("silence")
            return call(method, request)

        patch.setattr(client._calls, "call", slow)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def test_an_agent_that_never_answers_costs_less_than_a_hundredth_of_the_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report every ten seconds, for ten hours."""
    monkeypatch.setattr(delivery_module, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 2.0)
    hours = 36_000
    with AgentClient(NOBODY, budget_seconds=0) as client:
        run = client.run(spec(), when_away=HELD)
        with monkeypatch.context() as silent:
            clock.slow(silent, client, lambda within: within)
            for _ in range(hours // 10):
                clock.now += 10.0
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)

    assert 100 * 0.5 < clock.spent < hours / 100


def test_an_agent_that_comes_and_goes_is_tried_ever_less_often(
    client: AgentClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers every other call, and the others time out."""
    run = client.run("c", run_id="r")
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 2.0)
    answers: list[bool] = []

    def flapping(within: float) -> float:
        answers.append(not answers or not answers[-1])
        return 0.0 if answers[-1] else within

    clock.slow(monkeypatch, client, flapping)
    hour = 3_600
    for _ in range(hour // 2):
        clock.now += 2.0
        chunk(run)

    assert 10 < clock.spent < hour / 50
    assert len(answers) > 20


def test_the_calls_of_a_start_share_one_timeout(
    client: AgentClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slow answers delay a training no longer than one; each report has its own timeout."""
    client.run("c", run_id="r")
    left: list[float] = []

    def answer(within: float) -> float:
        left.append(within)
        clock.now += 12.0
        return 0.0

    clock.slow(monkeypatch, client, answer)
    run = client.run("c", run_id="r")
    chunk(run)
    chunk(run)

    assert left == [20.0, 8.0, calls.LEAST_SECONDS, 20.0, 20.0]


@pytest.mark.parametrize(("seconds", "warnings"), [(1.5, 1), (0.1, 0)])
def test_a_slow_agent_is_logged_once(
    client: AgentClient,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    warnings: int,
) -> None:
    """If its answers take more than a tenth of the time; nothing fails, so nobody would notice."""
    run = client.run("c", run_id="r")
    clock.slow(monkeypatch, client, lambda _within: seconds)
    for _ in range(20):
        clock.now += 2.0
        chunk(run)

    assert [m for m in caplog.messages if "answers slowly" in m] == caplog.messages
    assert len(caplog.messages) == warnings


def test_every_third_probe_is_patient(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an agent that answers within a call's timeout, but not within a probe's, is found."""
    availability = delivery_module.Availability()
    monkeypatch.setattr(delivery_module, "TRY_SECONDS", 0.5)
    tried = []
    for _ in range(6):
        tried.append(availability.patience())
        availability.failed(errors.Unavailable("silence"))

    assert tried == [20.0, 0.5, 20.0, 0.5, 0.5, 20.0]


def test_each_outage_has_its_own_time_for_ends() -> None:
    """Also one during which only ends of runs failed."""
    availability = delivery_module.Availability()
    availability.end_seconds = 0.0

    availability.answered()

    assert availability.end_seconds == delivery_module.END_SECONDS


# Random numbers and the model


def test_an_absent_agent_draws_none_of_the_trainings_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pauses between retries are random, by the client's own generator."""
    monkeypatch.setattr(delivery_module, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(delivery_module, "END_SECONDS", 0.3)

    def states() -> list[str]:
        drawn = np.random.get_state(legacy=False)["state"]["key"]
        return [str(random.getstate()), str(drawn.tolist()), str(torch.get_rng_state().tolist())]

    before = states()
    with AgentClient(NOBODY) as client, client.run(spec(), when_away=HELD) as run:
        chunk(run)

    assert states() == before


def test_a_controller_that_does_not_fit_the_model_is_not_created(client: AgentClient) -> None:
    """Its name stays free for the right spec."""
    drawn = [Hyperparameter(name="dropout", low=0.0, high=high) for high in (1.5, 0.5)]
    wrong, right = (spec("new", hyperparameters=(one,)) for one in drawn)
    with pytest.raises(errors.InvalidArgument, match="dropout"):
        client.run(wrong, model=network())

    with client.run(right, model=network()) as run:
        assert run.hyperparameters.keys() == {"dropout"}


def test_values_that_the_agent_did_not_decide_are_reported_as_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by a training that starts over, which runs under them again."""
    for seconds in ("PATIENCE", "END"):
        monkeypatch.setattr(delivery_module, f"{seconds}_SECONDS", 0.3)
    with AgentClient(NOBODY) as client, client.run(spec(), when_away=HELD) as run:
        chunk(run)
        run.start_again()

        request = run.request([1.0] * 4, Scores(training=0.5, validation=0.5))

    assert request is not None
    assert (request.chunk_index, dict(request.applied.values)) == (1, HELD.values)


def test_a_training_with_a_model_starts_without_the_agent(agent: Network) -> None:
    """Under its own rates; the run starts, and drives the model, once the agent answers."""
    agent.leave()
    model, labels = network(), torch.zeros(2, dtype=torch.int64)
    with AgentClient(agent.address, budget_seconds=0.1) as client:
        with client.run("c", run_id="r", model=model, problem=Problem(batch_size=2)) as run:
            for _ in range(60):
                run.step(1.0, torch.zeros(2, 3), labels)
                assert not run.chunk_full
                assert run.report(0.5) == {}
            assert rate(model) == 0.25
            assert "nothing is driven: the run has not started" in str(run.describe())
            agent.come_back()
            client.wait_ready(20)
            while not run.chunk_full:
                run.step(1.0, torch.zeros(2, 3), labels)
            assert rate(model) == run.hyperparameters["dropout"]
            assert "dropout drives\n  1:p (0.25)" in str(run.describe())
            run.report(0.5)

        assert rate(model) == 0.25
        end = client.get_run("r")
        assert (end.reported_chunks, end.outcome) == (1, pb.OUTCOME_TERMINATED)
        assert (end.problem.batch_size, end.problem.sites) == (2, 1)


def test_a_run_that_never_starts_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Twice: when it cannot start, and at its end."""
    caplog.set_level(logging.WARNING, "agent_service.client")
    with (
        AgentClient(NOBODY, budget_seconds=0.1) as client,
        client.run("c", run_id="r", model=network()) as run,
    ):
        steps(run, *[1.0] * 60)

        assert math.isnan(run.hyperparameters["dropout"])

    assert ["starts" in r.message for r in caplog.records] == [True, False]
    assert "run r never started" in caplog.text


def test_the_id_of_a_finished_run_is_refused(client: AgentClient) -> None:
    """With its outcome, and the model unchanged; unless the training repeats its chunks."""
    model = network()
    with client.run("c", run_id="r", model=model) as run:
        chunk(run)
    with pytest.raises(
        errors.FailedPrecondition, match=r"'r' is finished \(terminated\).*another run_id"
    ):
        client.run("c", run_id="r", model=model)
    assert rate(model) == 0.25

    again = client.run("c", run_id="r", is_repeated=True)
    again.start_again()
    chunk(again)
    assert again.action.chunk_index == 2
    again.finish(Outcome.TERMINATED)


def test_a_model_is_driven_by_one_run_at_a_time(client: AgentClient) -> None:
    """It is free again by `release`, or as soon as nothing refers to a lost run."""
    model = network()
    kept = client.run("c", model=model)
    with pytest.raises(errors.InvalidArgument, match=r"finish that one first.*release\(model\)"):
        client.run("c", model=model)
    assert rate(model) == kept.hyperparameters["dropout"]
    release(model)
    assert rate(model) == 0.25

    lost = client.run("c", model=model)
    kept.finish()
    assert rate(model) == lost.hyperparameters["dropout"]
    del lost
    assert rate(model) == 0.25
    with client.run("c", model=model) as run:
        assert rate(model) == run.hyperparameters["dropout"]


def test_a_client_closed_during_a_run_ends_the_run_and_not_the_training(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is restored, and the mistake is logged once."""
    model = network()
    with client.run("c", run_id="r", model=model) as run:
        client.close()
        chunk(run)
        assert run.is_finished
        assert rate(model) == 0.25

    assert caplog.text.count("run r ends: its client was closed during the training") == 1


@pytest.mark.parametrize("when_away", [None, Hold(), HELD])
def test_a_closed_client_starts_no_run(client: AgentClient, when_away: Hold | None) -> None:
    """Unlike an absent agent, that is a mistake of the script, before anything is trained."""
    client.close()
    with pytest.raises(errors.FailedPrecondition, match="is closed; create another"):
        client.run(spec(), model=network(), when_away=when_away)
