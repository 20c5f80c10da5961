"""One update: what it takes in beside the gradient, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.rollout import Segment, UpdateError
from agent_service.learning.sb3 import OUTLIER, update
from agent_service.learning.snapshot import PolicySnapshot, initial_snapshot
from tests.agent_service.specs import spec

SMALL = PPOSettings(net_arch=(8,), batch_size=8, n_epochs=2)


def segment(seed: int, *, length: int = 16, terminated: bool = False) -> Segment:
    rng = np.random.default_rng(seed)
    return Segment(
        observations=rng.uniform(0, 3, (length, 4)),
        samples=rng.standard_normal((length, 1)),
        log_probabilities=np.full(length, -1.5),
        rewards=rng.uniform(0, 1, length),
        next_observation=rng.uniform(0, 3, 4),
        terminated=terminated,
    )


def controller(**changes: object) -> ControllerSpec:
    return spec(algorithm=replace(SMALL, **changes))  # type: ignore[arg-type]


def chain(of: ControllerSpec, *rollouts: list[Segment]) -> PolicySnapshot:
    snapshot = initial_snapshot(of)
    for seed, segments in enumerate(rollouts):
        snapshot = update(snapshot, of, segments, seed=seed).snapshot
    return snapshot


def test_centred_rewards_are_rewards_less_their_running_mean() -> None:
    """Centring two rollouts equals taking off, beforehand, the mean of all rewards until then."""
    first, second = segment(1), segment(2, terminated=True)
    until_second = np.concatenate([first.rewards, second.rewards]).mean()

    centred = chain(controller(), [first], [second])
    plain = chain(
        controller(center_rewards=False),
        [replace(first, rewards=first.rewards - first.rewards.mean())],
        [replace(second, rewards=second.rewards - until_second)],
    )

    assert centred.arrays["reward.mean"] == pytest.approx(until_second, abs=1e-12)
    assert centred.arrays["reward.count"] == 32
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(centred.arrays[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_observation_statistics_are_those_of_all_states_learned_from() -> None:
    """After three rollouts mean, variance and count are those of all their states together."""
    rollouts = [[segment(1), segment(2)], [segment(3)], [segment(4, length=3)]]
    states = np.concatenate([s.observations for segments in rollouts for s in segments])

    arrays = chain(controller(normalize_observations=True), *rollouts).arrays

    np.testing.assert_allclose(arrays["observation.mean"], states.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(arrays["observation.var"], states.var(axis=0), rtol=1e-12)
    assert arrays["observation.count"] == len(states)


def test_one_diverging_child_does_not_blind_the_policy() -> None:
    """A loss of 1e10 moves the running deviation by no more than OUTLIER deviations would."""
    of = controller(normalize_observations=True)
    wild = segment(2)
    wild.observations[0, 0] = 1e10

    before = chain(of, [segment(1)]).arrays["observation.var"][0]
    after = chain(of, [segment(1)], [wild]).arrays["observation.var"][0]

    assert before < after < before * (1 + OUTLIER**2 / 16)


def test_rollouts_of_any_length_are_learned_from() -> None:
    """Two transitions are enough, and a last minibatch of one does no harm; one has no spread."""
    for length in (2, 9):
        snapshot = chain(controller(), [segment(1, length=length)])
        assert from_bytes(to_bytes(snapshot, controller(), policy_version=2), controller())
    with pytest.raises(ValueError, match="2 transitions"):
        chain(controller(), [segment(1, length=1)])


@pytest.mark.parametrize(("reward", "learning_rate"), [(1e300, 1e-3), (0.5, 1e8)])
def test_an_update_that_breaks_the_policy_is_refused(reward: float, learning_rate: float) -> None:
    """A policy that is not finite, or could not be loaded again, never becomes a version."""
    broken = segment(1)
    broken.rewards[3] = reward

    with pytest.raises(UpdateError):
        chain(controller(learning_rate=learning_rate), [broken])


def test_an_update_leaves_the_callers_randomness_alone() -> None:
    """NumPy's global generator goes on as if nothing had been shuffled."""
    np.random.seed(1)
    expected = np.random.random(3)
    np.random.seed(1)

    chain(controller(), [segment(1)])

    np.testing.assert_array_equal(np.random.random(3), expected)
