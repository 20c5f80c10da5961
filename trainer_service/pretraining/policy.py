"""The policy that learns: stable-baselines3's PPO with noise that lasts, and its file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from torch import nn

from agent_service.controllers import universal
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.specs import ControllerSpec, Observe
from agent_service.learning.policy_file import to_bytes
from agent_service.learning.snapshot import PolicySnapshot, empty_arrays
from trainer_service.pretraining.distribution import Learning
from trainer_service.training.regularizers.registry import steerable

HIDDEN = (64, 64)
"""Widths of the tanh layers of policy and value."""
LEAST_RATE = 0.15
"""Share of the learning rate that is left at the end."""
FEATURE = 0.5
"""Size of a hidden unit's output, about, which scales the noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """Whole runs of K children: T chunks each."""

    observations: npt.NDArray[np.float32]
    """float32[T, K, o]"""
    actions: npt.NDArray[np.float32]
    """float32[T, K, 1], not clipped."""
    log_probabilities: npt.NDArray[np.float32]
    """float32[T, K]"""
    rewards: npt.NDArray[np.float32]
    """float32[T, K]"""
    values: npt.NDArray[np.float64]
    """What the chunks ran under, float64[T, K]."""
    last: npt.NDArray[np.float64]
    """Test score at the end, float64[K]."""
    best: npt.NDArray[np.float64]
    """Test score where validation was best, float64[K]."""
    validation: npt.NDArray[np.float64]
    """The best validation score, float64[K]."""


def spec_of(regularizer: str, name: str = "pretrained") -> ControllerSpec:
    """Return the spec whose policy this is."""
    return ControllerSpec(
        name=name,
        hyperparameters=(steerable(regularizer).strength,),
        reward=Reward.VALIDATION,
        algorithm=PPOSettings(observe=Observe.UNIVERSAL, net_arch=HIDDEN, center_rewards=False),
    )


def new_policy(learning: Learning, hyperparameter: Hyperparameter, *, seed: int) -> PPO:
    """Return a PPO whose untrained policy sets one sensible value everywhere.

    Exploration is state-dependent (gSDE): its noise is drawn once a run, so that a run tries a
    level for good, where noise of each chunk would average out.
    """
    torch.manual_seed(seed)
    log_std = math.log(learning.deviation / (FEATURE * math.sqrt(HIDDEN[-1])))
    model = PPO(
        "MlpPolicy",
        None,  # type: ignore[arg-type]  # as in BaseAlgorithm.load
        learning_rate=lambda left: learning.learning_rate * max(LEAST_RATE, left),
        batch_size=learning.batch_size,
        n_epochs=learning.n_epochs,
        gamma=learning.gamma,
        gae_lambda=learning.gae_lambda,
        clip_range=learning.clip_range,
        ent_coef=learning.ent_coef,
        target_kl=learning.target_kl,
        use_sde=True,
        policy_kwargs={
            "net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)},
            "log_std_init": log_std,
        },
        device="cpu",
        _init_setup_model=False,
    )
    model.observation_space = spaces.Box(-np.inf, np.inf, (universal.size(1),), np.float32)
    model.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    model.n_envs = 1
    model._setup_model()
    model.set_logger(Logger(folder=None, output_formats=[]))
    head = model.policy.action_net
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, hyperparameter.unit(learning.start))
    return model


def update(model: PPO, episodes: Sequence[Episodes], *, left: float, seed: int) -> dict[str, float]:
    """Train once on episodes that ended; return the statistics that stable-baselines3 logged.

    Args:
        model: changed.
        episodes: that it played.
        left: share of the learning that is still to come, for the learning rate.
        seed: of the order of minibatches.
    """
    model._current_progress_remaining = left
    model.rollout_buffer = _buffer(model, episodes)
    np.random.seed(seed % 2**32)  # the buffer shuffles by NumPy's global generator
    torch.manual_seed(seed)
    model.train()
    return {
        name.removeprefix("train/"): float(value)
        for name, value in model.logger.name_to_value.items()
        if name.startswith("train/")
    }


def _buffer(model: PPO, episodes: Sequence[Episodes]) -> RolloutBuffer:
    """Return a buffer of all runs, one after another as if of one environment."""
    observations = np.concatenate([_by_run(e.observations) for e in episodes])
    rewards = np.concatenate([_by_run(e.rewards) for e in episodes])
    lengths = [len(e.rewards) for e in episodes for _ in range(e.rewards.shape[1])]
    buffer = RolloutBuffer(
        len(rewards),
        model.observation_space,
        model.action_space,
        device="cpu",
        gae_lambda=model.gae_lambda,
        gamma=model.gamma,
    )
    buffer.observations[:, 0] = observations
    buffer.actions[:, 0] = np.concatenate([_by_run(e.actions) for e in episodes])
    buffer.log_probs[:, 0] = np.concatenate([_by_run(e.log_probabilities) for e in episodes])
    buffer.rewards[:, 0] = rewards
    with torch.no_grad():
        buffer.values[:, 0] = (
            model.policy.predict_values(torch.from_numpy(observations)).flatten().numpy()
        )
    buffer.episode_starts[np.cumsum([0, *lengths[:-1]]), 0] = 1.0
    buffer.compute_returns_and_advantage(torch.zeros(1), dones=np.ones(1))
    buffer.full = True
    return buffer


def _by_run(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return [K T, ...] of [T, K, ...]: run after run."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1)).reshape(-1, *array.shape[2:])


def policy_bytes(model: PPO, *, regularizer: str, name: str, hidden: Sequence[int] = ()) -> bytes:
    """Return the policy file of the mean action, without an optimizer's state.

    Args:
        model: that learned.
        regularizer: whose value it sets.
        name: of the policy.
        hidden: places of an observation that it was blind to, and stays.
    """
    weights = model.policy.state_dict()
    spec = spec_of(regularizer, name)
    arrays = empty_arrays(spec)
    for key, form in arrays.items():
        if key in weights and key != "log_std":
            arrays[key] = weights[key].numpy().astype(form.dtype).reshape(form.shape)
    deviation = torch.exp(weights["log_std"]).square().sum(0).sqrt() * FEATURE
    for network in ("policy_net", "value_net"):
        arrays[f"mlp_extractor.{network}.0.weight"][:, list(hidden)] = 0.0
    arrays["log_std"] = torch.log(deviation).numpy().astype(np.float32)
    return to_bytes(PolicySnapshot(arrays), spec, policy_version=1)
