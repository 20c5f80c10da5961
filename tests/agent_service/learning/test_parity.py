"""Parity: our update on the same transitions is stable-baselines3's own PPO.learn()."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from agent_service.controllers.observations import observation_size
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.rollout import Segment
from agent_service.learning.sb3 import _optimizer_state, _parameters, update
from agent_service.learning.snapshot import PolicySnapshot, initial_snapshot
from tests.agent_service.specs import DROPOUT, NOISE, spec
from trainer_service.simulation.child import SimulatedChild

N, STEPS, ENVS, UPDATES, CHUNKS = 6, 24, 2, 4, 10
SETTINGS = PPOSettings(
    rollout_size=STEPS * ENVS,
    batch_size=16,
    n_epochs=4,
    net_arch=(16, 16),
    normalize_observations=False,
    center_rewards=False,
)
EVERYTHING = replace(SETTINGS, observe_action=True, observe_progress=True, observe_scores=True)
LOSSES_ALONE = spec(algorithm=SETTINGS, chunk_size=N)
SPECS = [LOSSES_ALONE, spec(algorithm=EVERYTHING, hyperparameters=(DROPOUT, NOISE), chunk_size=N)]


class SimulatedRuns(gymnasium.Env[np.ndarray, np.ndarray]):
    """Simulated children whose runs end, by plan or by a cut, inside rollouts.

    Of several hyperparameters the mean counts. Beside the losses it shows the action, the progress,
    and the scores and their changes, where the spec's controller observes more.
    """

    def __init__(self, of: ControllerSpec, ends_by_plan: bool) -> None:
        self._size = observation_size(of)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self._size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (len(of.hyperparameters),), np.float32)
        self._ends_by_plan = ends_by_plan
        self._runs = 0
        self._scores: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        self._runs += 1
        self._child = SimulatedChild(chunks=CHUNKS, chunk_size=N, seed=self._runs)
        self._chunk, self._scores = 0, None
        return np.zeros(self._size, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
        chunk = self._child.step(0.45 * (float(action.mean()) + 1.0))
        ends = self._child.finished
        self._chunk += 1
        scores = np.array([chunk.training_score, chunk.validation_score])
        change = np.zeros(2) if self._scores is None else scores - self._scores
        self._scores = scores
        seen = [*chunk.losses, *action, self._chunk / CHUNKS, *scores, *change]
        observation = np.array(seen[: self._size], np.float32)
        return (
            observation,
            chunk.validation_score,
            ends and self._ends_by_plan,
            ends and not self._ends_by_plan,
            {},
        )


class Recorder(BaseCallback):
    """Keeps each rollout's transitions as segments, and shuffles by a seed that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[list[Segment]] = []
        self._steps: list[list[tuple[Any, ...]]] = [[] for _ in range(ENVS)]
        self._segments: list[list[Segment]] = [[] for _ in range(ENVS)]

    def _on_step(self) -> bool:
        for env in range(ENVS):
            done, info = self.locals["dones"][env], self.locals["infos"][env]
            following = info["terminal_observation"] if done else self.locals["new_obs"][env]
            self._steps[env].append(
                (
                    self.model._last_obs[env].copy(),  # type: ignore[index]
                    self.locals["actions"][env].copy(),
                    float(self.locals["log_probs"][env]),
                    float(self.locals["rewards"][env]),
                    following.copy(),
                )
            )
            if done:
                self._close(env, terminated=not info["TimeLimit.truncated"])
        return True

    def _close(self, env: int, *, terminated: bool) -> None:
        if self._steps[env]:
            states, samples, log_probabilities, rewards, following = zip(
                *self._steps[env], strict=True
            )
            self._segments[env].append(
                Segment(
                    observations=np.array(states, np.float64),
                    samples=np.array(samples, np.float64),
                    log_probabilities=np.array(log_probabilities),
                    rewards=np.array(rewards),
                    next_observation=np.array(following[-1], np.float64),
                    terminated=terminated,
                )
            )
            self._steps[env] = []

    def _on_rollout_end(self) -> None:
        for env in range(ENVS):
            self._close(env, terminated=False)
        self.rollouts.append([s for env in range(ENVS) for s in self._segments[env]])
        self._segments = [[] for _ in range(ENVS)]
        np.random.seed([len(self.rollouts), 0])


def theirs(of: ControllerSpec, start: PolicySnapshot, ends_by_plan: bool) -> tuple[PPO, Recorder]:
    """Train by stable-baselines3 alone, from the same first policy."""
    import torch

    assert isinstance(of.algorithm, PPOSettings)
    model = PPO(
        "MlpPolicy",
        make_vec_env(lambda: SimulatedRuns(of, ends_by_plan), n_envs=ENVS, seed=1),
        n_steps=STEPS,
        batch_size=SETTINGS.batch_size,
        n_epochs=SETTINGS.n_epochs,
        learning_rate=SETTINGS.learning_rate,
        gamma=SETTINGS.gamma,
        clip_range=SETTINGS.clip_range,
        policy_kwargs={"net_arch": {"pi": [16, 16], "vf": [16, 16]}},
        device="cpu",
        seed=1,
    )
    names = dict(model.policy.named_parameters())
    model.policy.load_state_dict({n: torch.from_numpy(start.arrays[n].copy()) for n in names})
    recorder = Recorder()
    model.learn(STEPS * ENVS * UPDATES, callback=recorder)
    return model, recorder


@pytest.mark.parametrize("ends_by_plan", [True, False])
@pytest.mark.parametrize("of", SPECS, ids=["losses", "everything"])
def test_updates_are_those_of_ppo_learn(of: ControllerSpec, ends_by_plan: bool) -> None:
    """After four updates on the same transitions all parameters and Adam's state agree to 1e-6."""
    start = initial_snapshot(of)
    model, recorder = theirs(of, start, ends_by_plan)

    snapshot = start
    for number, segments in enumerate(recorder.rollouts, start=1):
        snapshot = update(snapshot, of, segments, seed=number).snapshot

    assert len(recorder.rollouts) == UPDATES
    assert any(s.terminated for s in recorder.rollouts[0]) == ends_by_plan
    expected = _parameters(model) | _optimizer_state(model)
    for name, array in expected.items():
        np.testing.assert_allclose(snapshot.arrays[name], array, rtol=0, atol=1e-6, err_msg=name)
    assert not np.array_equal(snapshot.arrays["log_std"], start.arrays["log_std"])


def test_an_update_is_made_again_to_the_bit() -> None:
    """The same rollout and seed give the same policy; another seed another one."""
    of = LOSSES_ALONE
    start = initial_snapshot(of)
    _model, recorder = theirs(of, start, True)

    first, again, other = (
        update(start, of, recorder.rollouts[0], seed=seed).snapshot for seed in (5, 5, 6)
    )

    assert all(np.array_equal(first.arrays[n], again.arrays[n]) for n in first.arrays)
    assert not all(np.array_equal(first.arrays[n], other.arrays[n]) for n in first.arrays)
