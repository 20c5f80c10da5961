"""Bayesian controllers through a real server: which ends become trials, and what follows."""

import json

import pytest

from agent_service.client import AgentClient, BayesianSettings, Mode, Outcome, PPOSettings
from agent_service.domain.errors import InvalidArgument
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import Call, report
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent


def train(
    client: AgentClient,
    run_id: str,
    *,
    outcome: Outcome = Outcome.TERMINATED,
    score: float | None = 0.5,
    mode: Mode | None = None,
    applied: float | None = None,
) -> float:
    """Train a run of three chunks under one value; return that."""
    run = client.run("c", run_id=run_id, mode=mode)
    value = run.hyperparameters["dropout"]
    for _ in range(3):
        report(run, applied=None if applied is None else {"dropout": applied})
        assert run.hyperparameters == {"dropout": value}
    run.finish(outcome, final_score=score)
    return value


def trials(client: AgentClient) -> list[tuple[list[float], float | None]]:
    return [tuple(t) for t in json.loads(client.export_policy("c"))["trials"]]


@pytest.fixture
def tuned(client: AgentClient) -> AgentClient:
    """The client of a server that has a Bayesian controller."""
    client.create_controller(spec(algorithm=BayesianSettings(n_startup_trials=3)))
    return client


def test_each_final_score_makes_a_version(
    served: ServedAgent, tuned: AgentClient, call: Call
) -> None:
    """With the run's value, in the order of the ends; a repeated end adds none.

    Transitions are only recorded, and the metrics count no update's seconds.
    """
    assert trials(tuned) == []
    values = [train(tuned, f"r{i}", score=i / 10) for i in range(5)]
    again = pb.FinishRunRequest(run_id="r4", outcome=pb.OUTCOME_TERMINATED, final_score=0.4)
    call(again)

    assert trials(tuned) == [([value], i / 10) for i, value in enumerate(values)]
    assert {t.use for t in tuned.transitions()} == {pb.USE_RECORDED}
    assert learn_once(served.store) == 0
    for name, expected in (
        ("agent_policy_version", 6),
        ("agent_policy_updates_total", 5),
        ("agent_policy_update_seconds_count", 0),
    ):
        assert served.registry.get_sample_value(name, {"controller": "c"}) == expected


def test_some_ends_are_no_trial(tuned: AgentClient) -> None:
    """No score, a frozen or a shadow run, other values than decided, a frozen controller."""
    train(tuned, "none", score=None)
    train(tuned, "frozen", mode=Mode.FROZEN)
    train(tuned, "shadow", mode=Mode.SHADOW, applied=0.5)
    train(tuned, "applied", applied=0.5)
    late = tuned.run("c", run_id="late")
    tuned.set_mode("c", Mode.FROZEN)
    late.finish(final_score=0.5)

    assert trials(tuned) == []
    assert tuned.get_controller("c").policy_version == 1


def test_values_reported_as_decided_are_a_trial(tuned: AgentClient) -> None:
    """`applied` equal to the action is no other value."""
    run = tuned.run("c")
    report(run, applied=run.hyperparameters)
    run.finish(final_score=0.5)

    assert len(trials(tuned)) == 1


@pytest.mark.parametrize("score", [None, 0.75])
def test_a_diverged_run_is_a_trial_without_a_score(tuned: AgentClient, score: float | None) -> None:
    """Whatever score it gave."""
    value = train(tuned, "r", outcome=Outcome.DIVERGED, score=score)

    assert trials(tuned) == [([value], None)]


def test_unset_settings_have_optunas_defaults(client: AgentClient, call: Call) -> None:
    """As the contract says."""
    request = pb.CreateControllerRequest(spec=pb.ControllerSpec(name="unset"))
    request.spec.hyperparameters.add(name="dropout", high=0.9)
    request.spec.bayesian.SetInParent()
    call(request)

    shown = client.get_controller("unset").spec.bayesian
    assert (shown.n_startup_trials, shown.n_ei_candidates) == (10, 24)


def test_trials_move_to_another_controller(tuned: AgentClient) -> None:
    """As a file, whose best value a frozen run takes; no policy of PPO takes it, nor gives one."""
    values = [train(tuned, f"r{i}", score=score) for i, score in enumerate((0.1, 0.3, 0.2))]
    data = tuned.export_policy("c")
    for other in (spec("twin", BayesianSettings()), spec("ppo", PPOSettings())):
        tuned.create_controller(other)

    assert tuned.import_policy("twin", data) == 2
    best = tuned.run("twin", mode=Mode.FROZEN)
    assert (best.hyperparameters["dropout"], best.action.explored) == (values[1], False)
    with pytest.raises(InvalidArgument, match="policy"):
        tuned.import_policy("ppo", data)
    with pytest.raises(InvalidArgument, match="policy"):
        tuned.import_policy("c", tuned.export_policy("ppo"))
