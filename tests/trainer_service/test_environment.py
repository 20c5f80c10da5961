"""The Gymnasium environments: valid by check_env, and true to the children they wrap."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD, CPU
from trainer_service.environment import ChildTrainingEnvironment, SimulatedChildEnvironment
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method, Sites, TrainingSpec

MODULE = "trainer_service.environment:ReinforcedRegularization/"


def tiny(**changes: Any) -> TrainingSpec:
    """Return a child that trains in milliseconds."""
    settings: dict[str, Any] = {"method": Method.RD, "batch_size": 8, "chunk_size": 2}
    return replace(CHILD, **settings | changes)


def episode(
    environment: gymnasium.Env[Any, Any], action: np.ndarray, *, seed: int
) -> list[tuple[Any, ...]]:
    """Return all steps of one run under one action."""
    environment.reset(seed=seed)
    steps: list[tuple[Any, ...]] = []
    while not (steps and steps[-1][2]):
        steps.append(environment.step(action))
    return steps


def test_the_simulated_child_passes_gymnasiums_check() -> None:
    """Without warnings, which are errors here."""
    check_env(gymnasium.make(f"{MODULE}SimulatedChild-v0").unwrapped)


@pytest.mark.parametrize("sites", Sites)
def test_a_real_child_passes_gymnasiums_check(sites: Sites) -> None:
    """With one hyperparameter, and with one per site."""
    environment = gymnasium.make(f"{MODULE}ChildTraining-v0", training=tiny(sites=sites))

    check_env(environment.unwrapped)

    assert environment.action_space.shape == (1,) if sites is Sites.SHARED else (5,)


def test_simulating_needs_no_torch() -> None:
    """Making and stepping the simulated child imports neither torch nor stable-baselines3."""
    code = (
        "import sys, gymnasium\n"
        f"environment = gymnasium.make('{MODULE}SimulatedChild-v0')\n"
        "environment.reset(seed=1)\n"
        "environment.step(environment.action_space.sample())\n"
        "assert not {'torch', 'stable_baselines3', 'grpc'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_rewards_are_of_the_chosen_definition() -> None:
    """Here the improvement on the chunk before, on nothing in the first."""
    before = 0.0
    steps = episode(
        SimulatedChildEnvironment(chunks=5, reward="improvement"), np.zeros(1, np.float32), seed=2
    )
    for _, earned, _, _, info in steps:
        assert earned == info["validation_score"] - before
        before = info["validation_score"]


def test_actions_are_clipped_and_mapped_to_the_range() -> None:
    """-1 is the lowest rate, 1 the highest, 0 the middle; values outside are clipped."""
    environment = SimulatedChildEnvironment()
    environment.reset(seed=0)

    rates = [
        environment.step(np.array([unit], np.float32))[4]["values"]["dropout"]
        for unit in (-1.0, 0.0, 1.0, -7.0, 7.0)
    ]

    assert rates == [0.0, 0.45, 0.9, 0.0, 0.9]


def test_a_run_terminates_at_its_planned_end() -> None:
    """S_0 is zeros; the last planned chunk terminates, not truncates; a further step raises."""
    environment = SimulatedChildEnvironment(chunks=4, chunk_size=3)
    start, info = environment.reset(seed=0)

    steps = episode(environment, np.zeros(1, np.float32), seed=0)

    assert start.tolist() == [0, 0, 0]
    assert info == {}
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(True, False)]
    assert [step[4]["chunk"] for step in steps] == [1, 2, 3, 4]
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(np.zeros(1, np.float32))


def test_each_reset_starts_another_child() -> None:
    """Resets without a seed start other children, in an order determined by the first seed."""

    def first_scores() -> list[float]:
        environment = SimulatedChildEnvironment()
        scores = []
        for seed in (5, None, None):
            environment.reset(seed=seed)
            scores.append(environment.step(np.zeros(1, np.float32))[1])
        return scores

    scores = first_scores()

    assert len(set(scores)) == 3
    assert first_scores() == scores


def test_a_real_childs_observations_are_its_losses() -> None:
    """The environment's steps are those of ChildTraining under the mapped values."""
    environment = ChildTrainingEnvironment(training=tiny())
    steps = episode(environment, np.array([-0.5], np.float32), seed=9)
    drawn = int(np.random.Generator(np.random.PCG64(9)).integers(2**31))
    child = ChildTraining(tiny(seed=drawn), load_images(tiny(), Path(".")), CPU)

    for observation, reward, _, _, info in steps:
        chunk = child.train_chunk({"dropout": 0.225})
        np.testing.assert_array_equal(observation, np.array(chunk.losses, np.float32))
        assert reward == chunk.validation_score - chunk.training_score
        assert info["values"] == {"dropout": 0.225}
    assert len(steps) == child.chunks == 3


def test_a_diverged_child_ends_its_run() -> None:
    """A loss that is not finite terminates; its chunk's scores count as 0."""
    environment = ChildTrainingEnvironment(
        training=tiny(chunks=50, learning_rate=1e30), reward="validation"
    )

    steps = episode(environment, np.zeros(1, np.float32), seed=0)

    observation, reward, terminated, truncated, _ = steps[-1]
    assert len(steps) < 50
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert not observation.any()


def test_unusable_rewards_and_methods_are_refused() -> None:
    """A reward that must be given, and a method without values to decide."""
    with pytest.raises(InvalidArgument, match="reward"):
        SimulatedChildEnvironment(reward="given")
    with pytest.raises(InvalidArgument, match="rni or rd"):
        ChildTrainingEnvironment(training=tiny(method=Method.D))
