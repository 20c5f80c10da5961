"""Bayesian controllers through a real server: what becomes a trial, and what comes of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_service.analysis.verification import VerificationError
from agent_service.app import verify_store
from agent_service.client import (
    AgentClient,
    BayesianSettings,
    ControllerSpec,
    Mode,
    Outcome,
    PPOSettings,
)
from agent_service.domain.errors import InvalidArgument
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.analysis.test_verification import change
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]
SPEC = spec(algorithm=BayesianSettings(n_startup_trials=3))


def train(
    client: AgentClient,
    run_id: str,
    *,
    outcome: Outcome = Outcome.TERMINATED,
    score: float | None = None,
    mode: Mode | None = None,
    applied: float | None = None,
    controller: str = "c",
) -> list[float]:
    """Train a run of three chunks; without a score, its own: best at a drop rate of 0.6."""
    run = client.run(controller, run_id=run_id, mode=mode)
    values = []
    for _ in range(3):
        values.append(run.hyperparameters["dropout"])
        told = None if applied is None else {"dropout": applied}
        run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5, applied=told)
    if score is None:
        score = 1 - (values[0] - 0.6) ** 2
    run.finish(outcome, final_score=score)
    return values


def trials(client: AgentClient, controller: str = "c") -> list[tuple[list[float], float | None]]:
    return [tuple(t) for t in json.loads(client.export_policy(controller))["trials"]]


@pytest.fixture
def tuned(client: AgentClient) -> AgentClient:
    """The client of a server that has a Bayesian controller."""
    client.create_controller(SPEC)
    return client


def test_each_final_score_makes_a_version(tuned: AgentClient) -> None:
    """With what the run trained under, throughout, in the order of the runs' ends."""
    assert tuned.get_controller("c").policy_version == 1
    assert trials(tuned) == []

    values = [train(tuned, f"r{i}", score=i / 10) for i in range(5)]

    assert all(len(set(of_run)) == 1 for of_run in values)
    assert trials(tuned) == [([of_run[0]], i / 10) for i, of_run in enumerate(values)]
    assert tuned.get_controller("c").policy_version == 6


def test_a_run_keeps_its_value_while_others_end(served: ServedAgent, tuned: AgentClient) -> None:
    """Though the newest version moves on at each end."""
    run = tuned.run("c", run_id="long")
    values = [run.hyperparameters]
    for other in range(4):
        train(tuned, f"r{other}")
        run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
        values.append(run.hyperparameters)
    run.finish()

    assert values == [values[0]] * 5
    verify_store(served.url)


def test_a_repeated_end_is_no_second_trial(tuned: AgentClient) -> None:
    """The same call again changes nothing."""
    train(tuned, "r", score=0.5)
    again = pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_TERMINATED, final_score=0.5)

    tuned._calls.call(tuned._stub.FinishRun, again)

    assert len(trials(tuned)) == 1
    assert tuned.get_controller("c").policy_version == 2


def test_what_says_nothing_of_a_value_is_no_trial(tuned: AgentClient) -> None:
    """No score, a frozen or a shadow run, other values than decided, a frozen controller."""
    tuned.run("c", run_id="none").finish()
    train(tuned, "frozen", mode=Mode.FROZEN)
    train(tuned, "shadow", mode=Mode.SHADOW, applied=0.5)
    train(tuned, "applied", applied=0.5)
    late = tuned.run("c", run_id="late")
    tuned.set_mode("c", Mode.FROZEN)
    late.finish(final_score=0.5)

    assert trials(tuned) == []
    assert tuned.get_controller("c").policy_version == 1


def test_values_that_were_told_as_decided_are_a_trial(tuned: AgentClient) -> None:
    """`applied` equal to the action is no other value."""
    run = tuned.run("c")
    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5, applied=run.hyperparameters)
    run.finish(final_score=0.5)

    assert len(trials(tuned)) == 1


@pytest.mark.parametrize("score", [None, 0.75])
def test_a_diverged_run_is_a_trial_without_a_score(tuned: AgentClient, score: float | None) -> None:
    """Whatever score it gave."""
    run = tuned.run("c")
    value = run.hyperparameters["dropout"]
    run.finish(Outcome.DIVERGED, final_score=score)

    assert trials(tuned) == [([value], None)]


def test_a_frozen_run_takes_the_best_value_so_far(tuned: AgentClient) -> None:
    """Before there is one, the middle of the range."""
    assert train(tuned, "before", mode=Mode.FROZEN) == [0.45] * 3
    values = [train(tuned, f"r{i}")[0] for i in range(6)]

    best = train(tuned, "after", mode=Mode.FROZEN)

    assert best == [min(values, key=lambda value: abs(value - 0.6))] * 3
    assert not tuned.get_run("after").action.explored


def test_its_transitions_are_recorded(served: ServedAgent, tuned: AgentClient) -> None:
    """The learner has nothing to do with them, whatever waits."""
    for i in range(4):
        train(tuned, f"r{i}", outcome=list(Outcome)[i])

    assert {t.use for t in tuned.transitions()} == {pb.USE_RECORDED}
    assert learn_once(served.store) == 0
    assert tuned.get_controller("c").ready_transitions == 0
    labels = {"controller": "c"}
    for name, expected in (
        ("agent_policy_version", 5),
        ("agent_policy_updates_total", 4),
        ("agent_policy_update_seconds_count", 0),
    ):
        assert served.registry.get_sample_value(name, labels) == expected


def propose_over(served: ServedAgent, names: Iterator[int], count: int) -> list[list[float]]:
    with AgentClient(served.address) as client:
        client.create_controller(SPEC)
        return [train(client, f"r{next(names)}") for _ in range(count)]


def test_a_restart_changes_no_proposal(tmp_path: Path) -> None:
    """A server that stops between runs proposes what one that goes on does; both logs verify."""
    with ServedAgent(tmp_path / "one.db") as served:
        through = propose_over(served, iter(range(8)), 8)
    names = iter(range(8))
    halves = []
    for _ in range(2):
        with ServedAgent(tmp_path / "other.db") as served:
            halves += propose_over(served, names, 4)

    assert halves == through
    assert len({value for values in through for value in values}) == 8
    for store in ("one", "other"):
        assert verify_store(f"sqlite:///{tmp_path}/{store}.db") == 8 * 4


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE decisions SET action = '{"dropout": 0.123}' WHERE position = {}""",
        "UPDATE decisions SET sample = zeroblob(8) WHERE position = {}",
        "UPDATE decisions SET policy_version = policy_version - 1 WHERE position = {}",
        "UPDATE policies SET data = (SELECT data FROM policies WHERE version = 4) "
        "WHERE version = 5",
    ],
)
def test_verify_finds_a_changed_proposal(tmp_path: Path, statement: str) -> None:
    """An action, a sample, a version or a trial that was changed: the first to differ is told."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as served:
        propose_over(served, iter(range(6)), 6)
    first = 4 * 4 + 1  # of the fifth run, the second that TPE proposed
    assert verify_store(f"sqlite:///{path}") == 6 * 4

    change(path, statement.replace("{}", str(first), 1) if "WHERE p" in statement else statement)

    with pytest.raises(VerificationError, match=f"position {first}: run r4, chunk 1"):
        verify_store(f"sqlite:///{path}")


def test_settings_come_back_as_they_were_given(client: AgentClient) -> None:
    """And with Optuna's defaults where they were not."""
    client.create_controller(spec("own", BayesianSettings(n_startup_trials=5, n_ei_candidates=48)))
    request = pb.CreateControllerRequest(spec=pb.ControllerSpec(name="unset"))
    request.spec.hyperparameters.add(name="dropout", high=0.9)
    request.spec.bayesian.SetInParent()
    client._calls.call(client._stub.CreateController, request)

    shown = client.get_controller("own").spec.bayesian
    assert (shown.n_startup_trials, shown.n_ei_candidates) == (5, 48)
    shown = client.get_controller("unset").spec.bayesian
    assert (shown.n_startup_trials, shown.n_ei_candidates) == (10, 24)


def test_trials_move_to_another_controller(tuned: AgentClient) -> None:
    """As a file; of other ranges, or as a PPO policy, they are refused."""
    values = [train(tuned, f"r{i}")[0] for i in range(4)]
    data = tuned.export_policy("c")
    others: dict[str, ControllerSpec] = {
        "twin": spec("twin", BayesianSettings()),
        "ppo": spec("ppo", PPOSettings()),
    }
    for other in others.values():
        tuned.create_controller(other)

    assert tuned.import_policy("twin", data) == 2
    best = min(values, key=lambda value: abs(value - 0.6))
    assert train(tuned, "best", controller="twin", mode=Mode.FROZEN) == [best] * 3
    with pytest.raises(InvalidArgument, match="policy"):
        tuned.import_policy("ppo", data)
    with pytest.raises(InvalidArgument, match="policy"):
        tuned.import_policy("c", tuned.export_policy("ppo"))
