"""A policy version as plain arrays: what serves decisions, what is stored and what is exported.

NumPy only: serving never imports torch. The arrays carry the names of stable-baselines3's
`MlpPolicy` state dictionary, so that loading them there is a dictionary look-up; the optimizer's
moments and the observation statistics travel beside them. The file form is safetensors with a JSON
manifest in its metadata: reading a stranger's file runs no code.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from agent_service.domain import draws
from agent_service.domain.errors import invalid
from agent_service.domain.specs import ControllerSpec, PPOSettings

FloatArray = npt.NDArray[np.float64]
Layers = tuple[tuple[FloatArray, FloatArray], ...]

FORMAT = 1
"""Version of the file form; a file of another one is refused."""
LOSS_LIMIT = 1e12
"""Losses are clipped to this before a policy sees them, so that no sum overflows to infinity."""
VARIANCE_FLOOR = 1e-8
"""Added to a variance before its root divides, as stable-baselines3's VecNormalize does."""
_MANIFEST = "reinforced-regularization"
_WEIGHT_LIMIT = 1e6
_LOG_STD_LIMIT = 20.0
_NOT_NEGATIVE = (".exp_avg_sq", ".step", "observation.var", "observation.count")


@dataclass(frozen=True, slots=True, eq=False)
class PolicySnapshot:
    """One version of a PPO policy; immutable, safe to share between threads.

    Decisions are computed in float64 and rounded to float32 precision. BLAS kernels and vector
    math differ between machines in the last bits of float64, about 1e-16; the rounding hides that
    save where a value lies that near the middle between two float32 numbers (some 1 in 10^8).
    """

    arrays: Mapping[str, np.ndarray]
    """By name: the parameters, `optimizer.*`, and `observation.*` where losses are normalized."""
    _policy: Layers = field(init=False, repr=False)
    _value: Layers = field(init=False, repr=False)
    _std: FloatArray = field(init=False, repr=False)
    _log_norm: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Prepare the float64 layers, the observation's normalization folded into the first."""
        log_std = self.arrays["log_std"].astype(np.float64)
        half_log_two_pi = 0.5 * math.log(2.0 * math.pi)
        object.__setattr__(self, "_policy", _layers(self.arrays, "policy_net", "action_net"))
        object.__setattr__(self, "_value", _layers(self.arrays, "value_net", "value_net"))
        object.__setattr__(self, "_std", np.exp(log_std))
        object.__setattr__(self, "_log_norm", float(log_std.sum()) + log_std.size * half_log_two_pi)

    def mean(self, state: FloatArray) -> FloatArray:
        """Return the mean of the Gaussian at `state`, float64[h], not clipped to [-1, 1].

        Args:
            state: float64[N], the losses of a chunk as reported, in order.
        """
        return _round(_forward(self._policy, state))

    def sample(self, state: FloatArray, noise: FloatArray) -> tuple[FloatArray, float]:
        """Return an unclipped sample, float64[h], and its natural log probability density.

        Args:
            state: float64[N], the losses of a chunk as reported, in order.
            noise: float64[h], standard normal.
        """
        mean = self.mean(state)
        sample = _round(mean + self._std * noise)
        distance = (sample - mean) / self._std
        return sample, float(np.float32(-0.5 * distance.dot(distance) - self._log_norm))

    def value(self, state: FloatArray) -> float:
        """Return the expected discounted return from `state` on, in units of the reward."""
        return float(_round(_forward(self._value, state))[0])


def _layers(arrays: Mapping[str, np.ndarray], hidden: str, head: str) -> Layers:
    """Collect the weights and biases of one network, from the losses to its output."""
    prefix = f"mlp_extractor.{hidden}"
    depth = sum(n.startswith(prefix) and n.endswith(".bias") for n in arrays)
    names = [*(f"{prefix}.{2 * i}" for i in range(depth)), head]
    layers = [
        (arrays[f"{n}.weight"].astype(np.float64), arrays[f"{n}.bias"].astype(np.float64))
        for n in names
    ]
    layers[0] = fold_normalization(arrays, *layers[0])
    return tuple(layers)


def fold_normalization(
    arrays: Mapping[str, np.ndarray], weight: FloatArray, bias: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return a first layer that takes raw losses where `weight` and `bias` take normalized ones.

    W (x - mean) / deviation + b = (W / deviation) x + (b - (W / deviation) mean), exactly.
    """
    if "observation.mean" not in arrays:
        return weight, bias
    weight = weight / np.sqrt(arrays["observation.var"] + VARIANCE_FLOOR)
    return weight, bias - weight @ arrays["observation.mean"]


def _forward(layers: Layers, state: FloatArray) -> FloatArray:
    """Run a tanh network; np.minimum and np.maximum cost a third of np.clip on 20 numbers."""
    x: FloatArray = np.minimum(np.maximum(state, -LOSS_LIMIT), LOSS_LIMIT)
    for weight, bias in layers[:-1]:
        x = np.tanh(weight.dot(x) + bias)
    weight, bias = layers[-1]
    output: FloatArray = weight.dot(x) + bias
    return output


def _round(values: FloatArray) -> FloatArray:
    """Round to float32 precision; see PolicySnapshot."""
    return values.astype(np.float32).astype(np.float64)


def ppo_settings(spec: ControllerSpec) -> PPOSettings:
    """Return the settings of a PPO controller; raises InvalidArgument for any other."""
    if not isinstance(spec.algorithm, PPOSettings):
        raise invalid("spec.algorithm", f"{spec.algorithm.kind} has no policy; only ppo has one")
    return spec.algorithm


def parameter_shapes(spec: ControllerSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each trainable parameter, in the order of stable-baselines3's policy."""
    widths = (spec.chunk_size, *ppo_settings(spec).net_arch)
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


def _empty_arrays(spec: ControllerSpec) -> dict[str, np.ndarray]:
    """Return zeros for every array that a snapshot of `spec` has, of the right type and shape."""
    arrays: dict[str, np.ndarray] = {}
    for name, shape in parameter_shapes(spec).items():
        arrays[name] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.exp_avg"] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.exp_avg_sq"] = np.zeros(shape, np.float32)
        arrays[f"optimizer.{name}.step"] = np.zeros((), np.float32)
    if ppo_settings(spec).normalize_observations:
        arrays["observation.mean"] = np.zeros(spec.chunk_size)
        arrays["observation.var"] = np.zeros(spec.chunk_size)
        arrays["observation.count"] = np.zeros(())
    return arrays


def initial_snapshot(spec: ControllerSpec) -> PolicySnapshot:
    """Return the first policy version: stable-baselines3's law of initialization, by spec's seed.

    Orthogonal weights with gain sqrt(2) in hidden layers, 0.01 in the action head (all mean
    actions start near 0, the middle of the range) and 1 in the value head; biases 0.

    Raises:
        InvalidArgument: where the spec's algorithm is not ppo.
    """
    # Run ids are never empty, so no decision ever draws these numbers again.
    rng = draws.generator(seed=spec.seed, run_id="", chunk=0)
    gains = {"action_net.weight": 0.01, "value_net.weight": 1.0}
    arrays = _empty_arrays(spec)
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


def to_bytes(snapshot: PolicySnapshot, spec: ControllerSpec, *, policy_version: int) -> bytes:
    """Return the file form: equal snapshots and specs give equal bytes.

    Args:
        snapshot: the policy.
        spec: of its controller; what the arrays mean is taken from it.
        policy_version: the number that the manifest gives, for the reader's information.
    """
    settings = ppo_settings(spec)
    manifest = _meaning(spec) | {
        "format": FORMAT,
        "policy_version": policy_version,
        "controller": spec.name,
        "reward": spec.reward.value,
        "gamma": settings.gamma,
        "observation": "losses S_t; normalized by observation.* where these are there",
        "action": "mean in [-1, 1], clipped, mapped to [low, high] by each scale",
    }
    # One metadata entry only: safetensors keeps no order among several.
    metadata = {_MANIFEST: json.dumps(manifest, sort_keys=True)}
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    return safetensors.numpy.save(arrays, metadata)


def _meaning(spec: ControllerSpec) -> dict[str, object]:
    """Return the parts of a manifest that must be equal for the arrays to mean the same."""
    settings = ppo_settings(spec)
    return {
        "chunk_size": spec.chunk_size,
        "hyperparameters": [
            {"name": h.name, "low": float(h.low), "high": float(h.high), "scale": h.scale.value}
            for h in spec.hyperparameters
        ],
        "net_arch": list(settings.net_arch),
        "normalize_observations": settings.normalize_observations,
    }


def from_bytes(data: bytes, spec: ControllerSpec) -> PolicySnapshot:
    """Read the file form, from the store or from a stranger, for a controller of `spec`.

    Nothing in the file is trusted or run, and nothing larger than the spec's own arrays is read.

    Raises:
        InvalidArgument: field `policy`, saying what is wrong with the file and what would be right.
    """
    expected = _empty_arrays(spec)
    limit = 65_536 + 256 * len(expected) + sum(array.nbytes for array in expected.values())
    if len(data) > limit:
        raise invalid("policy", f"has {len(data)} bytes; this controller's have at most {limit}")
    manifest = read_manifest(data)
    for name, value in _meaning(spec).items():
        if (made_for := manifest.get(name)) != value:
            raise invalid("policy", f"was made for {name} {made_for!r:.99}, here: {value!r}")
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise invalid("policy", f"is no intact safetensors file: {error!s:.99}") from error
    if surplus := sorted(arrays.keys() - expected.keys()):
        raise invalid("policy", f"has arrays that this controller lacks: {surplus!r:.99}")
    for name, form in expected.items():
        _check_array(name, arrays.get(name), form)
    return PolicySnapshot(arrays)


def read_manifest(data: bytes) -> dict[str, object]:
    """Return the manifest of a policy file: format, policy_version, controller, chunk_size, ...

    The layout is 8 bytes with the header's length, little endian, then the header, JSON.

    Raises:
        InvalidArgument: field `policy`, where this is no policy file or one of another format.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise invalid("policy", "is no safetensors file; send what ExportPolicy wrote, whole")
    try:
        header = json.loads(data[8 : 8 + length])
        manifest = json.loads(header["__metadata__"][_MANIFEST])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid("policy", "has no manifest; send what ExportPolicy wrote") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise invalid("policy", f"is not of format {FORMAT}, the one that this service reads")
    return manifest


def _check_array(name: str, array: np.ndarray | None, form: np.ndarray) -> None:
    """Check one array against the type and shape of `form`, and what a policy can hold."""
    wanted = f"{form.dtype.name}{list(form.shape)}"
    if array is None:
        raise invalid("policy", f"lacks the array {name}, {wanted}")
    if array.dtype != form.dtype or array.shape != form.shape:
        found = f"{array.dtype.name}{list(array.shape)}"
        raise invalid("policy", f"array {name} is {found}; it must be {wanted}")
    if not np.isfinite(array).all():
        raise invalid("policy", f"array {name} is not finite throughout")
    if name.endswith(_NOT_NEGATIVE) and (array < 0).any():
        raise invalid("policy", f"array {name} has values below 0")
    limit = _LOG_STD_LIMIT if name == "log_std" else _WEIGHT_LIMIT
    if not name.startswith(("optimizer.", "observation.")) and (np.abs(array) > limit).any():
        raise invalid("policy", f"array {name} has magnitudes above {limit:g}")
