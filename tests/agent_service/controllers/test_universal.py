"""Universal observations: what they tell, and that a run's log derives them again."""

import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.analysis.verification import VerificationError
from agent_service.app import compare_policies, verify_store
from agent_service.client import AgentClient
from agent_service.controllers import universal
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.universal import Report, Setting
from agent_service.domain.errors import InvalidArgument, Unavailable
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Reward, Scores
from agent_service.domain.specs import Observe
from agent_service.learning.policy_file import from_bytes
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.convert import problem_to_message
from tests.agent_service.calls import Call, report_of
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent, of_sqlite

PROBLEM = Problem(
    classes=7,
    training_samples=1000,
    batch_size=50,
    learning_rate=1e-3,
    parameters=30_000,
    sites=3,
)
SETTING = Setting(problem=PROBLEM, planned_chunks=10, chunk_size=4, hyperparameters=2)

shares = st.floats(0.0, 1.0)
losses = st.lists(st.floats(0.0, 1e300), min_size=4, max_size=4)
reports = st.lists(st.tuples(losses, shares, shares, st.floats(-1.0, 1.0)), max_size=12)
counts = st.none() | st.integers(2, 10**9)
problems = st.builds(
    Problem,
    classes=counts,
    training_samples=counts,
    batch_size=counts,
    learning_rate=st.none() | st.floats(1e-9, 1e3),
    parameters=counts,
    sites=counts,
)


def course(setting: Setting, told: list[Any]) -> list[dict[str, float]]:
    """Return all that is observed in a run, by name."""
    seen = [universal.first(setting)]
    for chunk, (of_chunk, training, validation, place) in enumerate(told, 1):
        report = Report(
            chunk=chunk,
            losses=of_chunk,
            scores=Scores(training=training, validation=validation),
            places=[place] * setting.hyperparameters,
        )
        seen.append(universal.following(setting, seen[-1], report))
    return [
        dict(zip(universal.names(setting.hyperparameters), numbers.tolist(), strict=True))
        for numbers in seen
    ]


def problem_with(field: str, value: float | None) -> Problem:
    changes: Any = {field: value}
    return replace(PROBLEM, **changes)


def rescaled(score: float) -> float:
    return (score - 1 / 7) / (1 - 1 / 7)


@given(told=reports)
def test_they_tell_what_the_whole_run_tells(told: list[Any]) -> None:
    """Each vector follows from the one before, and yet equals what all reports say together."""
    told = [([loss % 3 for loss in of_chunk], *rest) for of_chunk, *rest in told]
    seen = course(SETTING, told)

    for chunk, numbers in enumerate(seen[1:], 1):
        past = told[:chunk]
        validation = [rescaled(v) for _, _, v, _ in past]
        differences = [rescaled(t) - rescaled(v) for _, t, v, _ in past]
        means = [float(np.mean(of_chunk)) / math.log(7) for of_chunk, *_ in past]
        best = max(validation)
        since = chunk - 1 - max(i for i, v in enumerate(validation) if v == best)
        expected = {
            "mean loss": means[-1],
            "its change by 5": 5 * (means[-1] - means[-2]) if chunk > 1 else 0.0,
            "training score": rescaled(past[-1][1]),
            "validation score": validation[-1],
            "training less validation by 2": 2 * differences[-1],
            "smoothed validation score": smoothed(validation),
            "smoothed difference by 2": 2 * smoothed(differences),
            "best validation score": best,
            "validation score less the best by 5": 5 * (validation[-1] - best),
            "place 1": past[-1][3],
            "mean place 2": float(np.mean([place for *_, place in past])),
            "share of the plan trained": min(chunk / 10, 1.0),
            "first chunk": 0.0,
        }
        clipped = {name: min(max(value, -4.0), 4.0) for name, value in expected.items()}
        assert {name: numbers[name] for name in clipped} == pytest.approx(clipped, abs=1e-5)
        if all(abs(v - best) > 1e-6 or v == best for v in validation):
            ago = numbers["share of the plan since the best by 2, or steps / 400"]
            assert ago == pytest.approx(min(2 * since / 10, 4.0), abs=1e-5)


def smoothed(values: list[float]) -> float:
    mean = values[0]
    for value in values[1:]:
        mean += 0.3 * (value - mean)
    return mean


@given(problem=problems, planned=st.none() | st.integers(1, 10**6), told=reports)
def test_they_are_finite_and_small_whatever_is_told(
    problem: Problem, planned: int | None, told: list[Any]
) -> None:
    setting = replace(SETTING, problem=problem, planned_chunks=planned)

    for numbers in course(setting, told):
        values = np.array(list(numbers.values()))
        assert (np.abs(values) <= universal.LIMIT).all()
        assert (values == values.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("field", "name", "usual"),
    [
        ("classes", "classes", 7),  # ln C / 2 - 1 is 0 at e^2
        ("training_samples", "samples", 400),
        ("batch_size", "batch size", 32),
        ("learning_rate", "learning rate", 0.002),
        ("parameters", "parameters", 20_000),
        ("sites", "sites", 2),
    ],
)
def test_what_is_unknown_differs_from_what_is_usual(field: str, name: str, usual: float) -> None:
    """A mark says whether a number is known, since a known one may be 0 as well."""
    unknown, known = (
        course(replace(SETTING, problem=problem_with(field, value)), [])[0]
        for value in (None, usual)
    )

    assert (unknown[f"{name} known"], known[f"{name} known"]) == (0.0, 1.0)


def test_guessing_is_zero_and_one_whatever_the_number_of_classes() -> None:
    """The loss ln C and the score 1/C mean the same with 2 classes and with 100."""
    for classes in (2, 100):
        setting = replace(SETTING, problem=Problem(classes=classes))
        guessing = ([math.log(classes)] * 4, 1 / classes, 1 / classes, 0.0)
        seen = course(setting, [guessing])[-1]
        assert seen["mean loss"] == pytest.approx(1.0)
        assert seen["training score"] == seen["validation score"] == pytest.approx(0.0)


def test_a_controller_learns_from_them_and_its_log_is_verified(
    served: ServedAgent, client: AgentClient
) -> None:
    """Through the service: what it stored derives each decision again, and an update learns.

    Its versions are compared on what was observed.
    """
    settings = PPOSettings(
        rollout_size=8, batch_size=4, n_epochs=1, net_arch=(8,), observe=Observe.UNIVERSAL
    )
    client.create_controller(spec("any", settings))
    for number in range(2):
        with client.run("any", run_id=f"r{number}", planned_chunks=4) as run:
            for chunk in range(1, 5):
                run.report_chunk(
                    [2.0 / chunk] * 4, training_score=0.2 * chunk, validation_score=0.1 * chunk
                )
    contexts = [list(t.context) for t in client.transitions(run_id="r0")]

    assert {len(context) for context in contexts} == {universal.size(1)}
    assert (
        contexts[0]
        == universal.first(
            Setting(problem=Problem(), planned_chunks=4, chunk_size=4, hyperparameters=1)
        ).tolist()
    )
    assert learn_once(served.store) == 1
    assert verify_store(served.url) == 10
    (found,), states = compare_policies(client, "any", 1, 2, transitions=1000)
    first, second = (
        from_bytes(client.export_policy("any", version), spec("any", settings))
        for version in (1, 2)
    )
    moved = [
        abs(float(first.mean(np.array(t.context))[0] - second.mean(np.array(t.context))[0]))
        for t in client.transitions()
    ]
    assert states == 8
    assert found.mean == pytest.approx(0.45 * np.mean(moved)) != 0


@of_sqlite
def test_a_runs_problem_is_seen_stored_and_verified(
    served: ServedAgent, client: AgentClient, call: Call
) -> None:
    """The stored one derives each decision again: changed, it is refused, or found."""
    client.create_controller(spec("any", PPOSettings(observe=Observe.UNIVERSAL)))
    message = problem_to_message(PROBLEM)
    call(pb.StartRunRequest(controller="any", run_id="r", planned_chunks=10, problem=message))
    call(report_of("r"))
    (first,) = client.transitions(run_id="r")
    setting = replace(SETTING, hyperparameters=1)

    assert client.get_run("r").problem == message
    assert list(first.context) == universal.first(setting).tolist()
    assert verify_store(served.url) == 2
    for change, error, says in (
        ("problem = json_set(problem, '$.sites', 9)", Unavailable, "does not match its checksum"),
        ("checksum = NULL", VerificationError, "run r, chunk 1: context"),
    ):
        with closing(sqlite3.connect(served.url.removeprefix("sqlite:///"))) as store, store:
            store.execute(f"UPDATE runs SET {change}")
        with pytest.raises(error, match=says):
            verify_store(served.url)


@pytest.mark.parametrize("name", ["observe_action", "observe_progress", "observe_scores"])
def test_what_they_hold_already_is_not_asked_for_again(name: str) -> None:
    asked: Any = {name: True}
    with pytest.raises(InvalidArgument, match=f"{name}: is part of the universal"):
        PPOSettings(observe=Observe.UNIVERSAL, **asked)


def test_a_given_reward_brings_no_scores_to_observe(client: AgentClient) -> None:
    settings = PPOSettings(observe=Observe.UNIVERSAL)
    with pytest.raises(InvalidArgument, match="need scores, which reward `given` does without"):
        client.create_controller(spec("c", settings, reward=Reward.GIVEN))
