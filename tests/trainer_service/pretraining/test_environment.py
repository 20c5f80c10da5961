"""The environment of problems: Gymnasium's rules, twins, rewards and what is observed."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from agent_service.controllers import universal
from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.pretraining.problems import tiny
from trainer_service.pretraining.environment import ProblemsEnvironment

ID = "trainer_service.pretraining.environment:ReinforcedRegularization/Problems-v0"
PLACES = [[-1.0], [-0.5], [0.0], [0.9]]


def episode(environment: Any, actions: Any, *, seed: int) -> list[tuple[Any, ...]]:
    """Return what each step of a run brought."""
    environment.reset(seed=seed)
    steps = [environment.step(np.array(actions, np.float32))]
    while not steps[-1][2].all():
        steps.append(environment.step(np.array(actions, np.float32)))
    return steps


def test_it_is_a_vectorized_environment_as_gymnasium_has_them() -> None:
    """Made by name; spaces hold what comes; after an end, the next step begins another stack."""
    environment = gymnasium.make_vec(ID, num_envs=4, problems=tiny())
    observation, _info = environment.reset(seed=5)
    assert observation in environment.observation_space
    steps = episode(environment, PLACES, seed=5)

    for seen, rewards, ends, cut, info in steps:
        assert seen in environment.observation_space
        assert (rewards.shape, ends.shape, cut.any()) == ((4,), (4,), False)
        assert all(np.isfinite(info[name]).all() for name in ("value", "test_score"))
    assert [bool(step[2].any()) for step in steps[:-1]] == [False] * (len(steps) - 1)
    seen, rewards, ends, _cut, _info = environment.step(np.array(PLACES, np.float32))
    first = universal.names(1).index("first chunk")
    assert (rewards.any(), ends.any(), seen[:, first].tolist()) == (False, False, [1.0] * 4)


def test_a_seed_gives_the_same_run_again() -> None:
    environment = ProblemsEnvironment(4, problems=tiny())
    again, another = (episode(environment, PLACES, seed=seed) for seed in (3, 4))

    steps = episode(ProblemsEnvironment(4, problems=tiny()), PLACES, seed=3)

    for (one, rewards, *_), (other, its_rewards, *_) in zip(steps, again, strict=True):
        assert (one == other).all()
        assert (rewards == its_rewards).all()
    assert (steps[0][0] != another[0][0]).any()


def test_twins_differ_in_their_actions_only() -> None:
    """Under one action they are alike to the last bit, and so neither earns anything."""
    steps = episode(ProblemsEnvironment(4, problems=tiny()), [[0.3]] * 4, seed=2)
    apart = episode(ProblemsEnvironment(4, problems=tiny()), PLACES, seed=2)

    for seen, rewards, *_ in steps:
        assert (seen[0] == seen[1]).all()
        assert (seen[2] == seen[3]).all()
        assert not rewards.any()
    assert (apart[0][0][0] != apart[0][0][1]).any()


def test_rewards_add_up_to_both_final_scores() -> None:
    """10 times half of each; relative ones less the mean of the twins."""
    absolute = episode(ProblemsEnvironment(4, problems=tiny(), is_relative=False), PLACES, seed=6)
    relative = episode(ProblemsEnvironment(4, problems=tiny()), PLACES, seed=6)
    info = absolute[-1][4]
    sums = sum(step[1] for step in absolute)
    pairs = np.array(sums).reshape(2, 2)

    assert sums == pytest.approx(5 * (info["test_score"] + info["best_test_score"]))
    best = np.argmax([step[4]["validation_score"] for step in absolute], axis=0)
    tests = np.array([step[4]["test_score"] for step in absolute])
    assert info["best_test_score"] == pytest.approx(tests[best, range(4)])
    expected = (pairs - pairs.mean(1, keepdims=True)).ravel()
    assert sum(step[1] for step in relative) == pytest.approx(expected)


def test_it_observes_what_the_service_would() -> None:
    """The problem's descriptors at first, and the place of the value that a chunk ran under."""
    environment = ProblemsEnvironment(4, problems=tiny(unknown=0.0))
    observation, _info = environment.reset(seed=1)
    setting = universal.Setting(
        problem=environment._stack.problems[0],
        planned_chunks=environment._stack.planned_chunks[0],
        chunk_size=4,
        hyperparameters=1,
    )
    seen, *_ = environment.step(np.array(PLACES, np.float32))

    assert (observation[0] == universal.first(setting)).all()
    assert seen[:, universal.names(1).index("place 1")] == pytest.approx(np.ravel(PLACES))
    problem = environment._stack.problems[0]
    assert None not in (problem.classes, problem.sites, problem.parameters)


def test_what_is_hidden_is_unknown() -> None:
    environment = ProblemsEnvironment(4, problems=tiny(unknown=1.0))
    observation, _info = environment.reset(seed=1)

    known = [place for place, name in enumerate(universal.names(1)) if name.endswith("known")]
    assert len(known) == 8
    assert not observation[:, known].any()


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ("problem", "ln classes / 2 - 1"),
        ("problem", "ln sites / 2"),
        ("problem", "samples known"),
        ("plan", "share of the plan trained"),
        ("losses", "mean loss"),
        ("scores", "validation score"),
        ("scores", "share of the plan since the best by 2, or steps / 400"),
    ],
)
def test_a_policy_can_be_blind_to_a_part(part: str, shown: str) -> None:
    """Of what it sees otherwise; how far the run is and what it ran under stay."""
    blind = tiny(learning={"blind_to": [part]}, unknown=0.0)
    place = universal.names(1).index(shown)
    seen, hidden = (
        np.stack([step[0][:, place] for step in episode(environment, PLACES, seed=9)])
        for environment in (
            ProblemsEnvironment(4, problems=tiny(unknown=0.0)),
            ProblemsEnvironment(4, problems=blind),
        )
    )
    steps = episode(ProblemsEnvironment(4, problems=blind), PLACES, seed=9)

    assert seen.any() or "since" in shown
    assert not hidden.any()
    kept = [
        universal.names(1).index(name) for name in ("ln (1 + steps trained / 100) / 2", "place 1")
    ]
    assert all((step[0][:, kept] != 0).any() for step in steps)


def test_twins_fill_the_environments() -> None:
    with pytest.raises(InvalidArgument, match="num_envs: 3 is no multiple of 2 twins"):
        ProblemsEnvironment(3, problems=tiny())
