"""A policy version as plain arrays: what serves decisions, what is stored and what is exported.

NumPy only: serving never imports torch. The arrays carry the names of stable-baselines3's
`MlpPolicy` state dictionary, so that loading them there is a dictionary look-up; the optimizer's
moments and the statistics of observations and rewards travel beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from agent_service.controllers import draws
from agent_service.controllers.observations import observation_size
from agent_service.controllers.ppo import ppo_settings
from agent_service.domain.specs import ControllerSpec

FloatArray = npt.NDArray[np.float64]
Layers = tuple[tuple[FloatArray, FloatArray], ...]

OBSERVATION_LIMIT = 1e12
"""Observations are clipped to this before a policy sees them, so that no sum overflows."""
VARIANCE_FLOOR = 1e-8
"""Added to a variance before its root divides, as stable-baselines3's VecNormalize does."""


@dataclass(frozen=True, slots=True, eq=False)
class PolicySnapshot:
    """One version of a PPO policy; immutable, safe to share between threads.

    Decisions are computed in float64 and rounded to float32 precision. BLAS kernels and vector
    math differ between machines in the last bits of float64, about 1e-16; the rounding hides that
    save where a value lies that near the middle between two float32 numbers (some 1 in 10^8).
    """

    arrays: Mapping[str, np.ndarray]
    """By name: the parameters, `optimizer.*`, `observation.*` where observations are normalized,
    and `reward.*` where rewards are centred."""
    _policy: Layers = field(init=False, repr=False)
    _std: FloatArray = field(init=False, repr=False)
    _log_norm: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare the float64 layers, the observation's normalization folded into the first."""
        log_std = self.arrays["log_std"].astype(np.float64)
        half_log_two_pi = 0.5 * math.log(2.0 * math.pi)
        object.__setattr__(self, "_policy", _policy_layers(self.arrays))
        object.__setattr__(self, "_std", np.exp(log_std))
        object.__setattr__(self, "_log_norm", float(log_std.sum()) + log_std.size * half_log_two_pi)

    def mean(self, observation: FloatArray) -> FloatArray:
        """Return the mean of the Gaussian at `observation`, float64[h], not clipped to [-1, 1].

        Args:
            observation: float64[N + c], the losses of a chunk as reported, in order, then the
                context, where the controller observes more.
        """
        return _forward(self._policy, observation)

    def sample(self, observation: FloatArray, noise: FloatArray) -> tuple[FloatArray, float]:
        """Return an unclipped sample, float64[h], and its natural log probability density.

        Args:
            observation: float64[N + c], as in `mean`.
            noise: float64[h], standard normal.
        """
        mean = _forward(self._policy, observation)
        sample = _round(mean + self._std * noise)
        distance = (sample - mean) / self._std
        return sample, float(np.float32(-0.5 * distance.dot(distance) - self._log_norm))


def _policy_layers(arrays: Mapping[str, np.ndarray]) -> Layers:
    """Collect the weights and biases of the policy's network, from the observation to its mean."""
    prefix = "mlp_extractor.policy_net"
    depth = sum(n.startswith(prefix) and n.endswith(".bias") for n in arrays)
    names = [*(f"{prefix}.{2 * i}" for i in range(depth)), "action_net"]
    layers = [
        (arrays[f"{n}.weight"].astype(np.float64), arrays[f"{n}.bias"].astype(np.float64))
        for n in names
    ]
    layers[0] = _fold_normalization(arrays, *layers[0])
    return tuple(layers)


def _fold_normalization(
    arrays: Mapping[str, np.ndarray], weight: FloatArray, bias: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return a first layer that takes raw input where `weight` and `bias` take normalized input.

    W (x - mean) / deviation + b = (W / deviation) x + (b - (W / deviation) mean), exactly.
    """
    if "observation.mean" not in arrays:
        return weight, bias
    weight = weight / np.sqrt(arrays["observation.var"] + VARIANCE_FLOOR)
    return weight, bias - weight @ arrays["observation.mean"]


def _forward(layers: Layers, observation: FloatArray) -> FloatArray:
    """Run a tanh network, and round what it puts out to float32 precision; see PolicySnapshot.

    np.minimum and np.maximum cost a third of np.clip on 20 numbers.
    """
    x: FloatArray = np.minimum(np.maximum(observation, -OBSERVATION_LIMIT), OBSERVATION_LIMIT)
    for weight, bias in layers[:-1]:
        x = np.tanh(weight.dot(x) + bias)
    weight, bias = layers[-1]
    return _round(weight.dot(x) + bias)


def _round(values: FloatArray) -> FloatArray:
    """Round to float32 precision; see PolicySnapshot."""
    return values.astype(np.float32).astype(np.float64)


def parameter_shapes(spec: ControllerSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each trainable parameter, in the order of stable-baselines3's policy."""
    widths = (observation_size(spec), *ppo_settings(spec).net_arch)
    actions = len(spec.hyperparameters)
    shapes: dict[str, tuple[int, ...]] = {"log_std": (actions,)}
    for network in ("policy_net", "value_net"):
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            shapes[f"mlp_extractor.{network}.{2 * i}.weight"] = (outputs, inputs)
            shapes[f"mlp_extractor.{network}.{2 * i}.bias"] = (outputs,)
    for head, outputs in (("action_net", actions), ("value_net", 1)):
        shapes[f"{head}.weight"] = (outputs, widths[-1])
        shapes[f"{head}.bias"] = (outputs,)
    return shapes


def empty_arrays(spec: ControllerSpec) -> dict[str, np.ndarray]:
    """Return zeros for every array that a snapshot of `spec` has, of the right type and shape."""
    arrays: dict[str, np.ndarray] = {}
    for name, shape in parameter_shapes(spec).items():
        arrays[name] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.exp_avg"] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.exp_avg_sq"] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.step"] = np.zeros((), np.float32)
    if ppo_settings(spec).normalize_observations:
        arrays["observation.mean"] = np.zeros(observation_size(spec))
        arrays["observation.var"] = np.zeros(observation_size(spec))
        arrays["observation.count"] = np.zeros(())
    if ppo_settings(spec).center_rewards:
        arrays["reward.mean"] = np.zeros(())
        arrays["reward.count"] = np.zeros(())
    return arrays


def initial_snapshot(spec: ControllerSpec) -> PolicySnapshot:
    """Return the first policy version: stable-baselines3's law of initialization, by spec's seed.

    Orthogonal weights with gain sqrt(2) in hidden layers, 0.01 in the action head (all mean
    actions start near 0, the middle of the range) and 1 in the value head; biases 0.

    Raises:
        InvalidArgument: the spec's algorithm has no policy network.
    """
    # Run ids are never empty, so no decision ever draws these numbers again.
    rng = draws.generator(seed=spec.seed, run_id="", chunk=0)
    gains = {"action_net.weight": 0.01, "value_net.weight": 1.0}
    arrays = empty_arrays(spec)
    for name, shape in parameter_shapes(spec).items():
        if name.endswith(".weight"):
            arrays[name][:] = gains.get(name, math.sqrt(2.0)) * _orthogonal(rng, *shape)
    arrays["log_std"][:] = ppo_settings(spec).log_std_init
    if "observation.var" in arrays:
        arrays["observation.var"][:] = 1.0
    return PolicySnapshot(arrays)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Draw uniformly from the matrices with orthonormal rows, or columns where they are fewer.

    Saxe et al. 2014 (arXiv 1312.6120), as in torch.nn.init.orthogonal_; the signs of R's diagonal
    make the distribution uniform.
    """
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
