"""The file form of a policy version: safetensors, with a JSON manifest in its metadata.

Reading a stranger's file runs no code, and takes nothing that a decision could choke on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from agent_service.controllers import universal
from agent_service.controllers.ppo import ppo_settings
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import REWARDS
from agent_service.domain.specs import ControllerSpec, Observe
from agent_service.learning.snapshot import OBSERVATION_LIMIT, PolicySnapshot, empty_arrays

FORMAT = 1
"""Version of the file form; a file of another one is refused."""
_UNSAID: Mapping[str, object] = {"observes": ["losses"], "max_change": None}
"""Values of the parts that older manifests leave out."""
_MANIFEST = "reinforced-regularization"
_WEIGHT_LIMIT = 1e6
_LIMITS = {
    "log_std": 20.0,
    "observation.mean": OBSERVATION_LIMIT,
    "observation.var": OBSERVATION_LIMIT**2,
    "observation.count": math.inf,
}
"""Largest magnitudes by array; what stays below them cannot overflow in a decision."""
_NOT_NEGATIVE = (".exp_avg_sq", ".step", "observation.var", "observation.count", "reward.count")


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
        "reward": spec.reward,
        "gamma": settings.gamma,
        "observation": "in the order of `observes`; normalized by observation.* where there",
        "action": "mean, clipped to [-1, 1]: a place, mapped to [low, high] by each scale; with "
        "`max_change`, times it a change of the place before",
    }
    # One metadata entry only: safetensors keeps no order among several.
    metadata = {_MANIFEST: json.dumps(manifest, sort_keys=True)}
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    return safetensors.numpy.save(arrays, metadata)


def _meaning(spec: ControllerSpec) -> dict[str, object]:
    """Return the parts of a manifest that must be equal for the arrays to mean the same."""
    settings = ppo_settings(spec)
    return {
        # Universal observations mean the same for any.
        "chunk_size": None if settings.observe is Observe.UNIVERSAL else spec.chunk_size,
        "hyperparameters": [
            {"name": h.name, "low": float(h.low), "high": float(h.high), "scale": h.scale.value}
            for h in spec.hyperparameters
        ],
        "net_arch": list(settings.net_arch),
        "normalize_observations": settings.normalize_observations,
        "observes": _observes(spec),
        "max_change": settings.max_change,
    }


def _observes(spec: ControllerSpec) -> list[str]:
    """Return the parts of an observation, in order."""
    settings = ppo_settings(spec)
    if settings.observe is Observe.UNIVERSAL:
        return universal.names(len(spec.hyperparameters))
    is_given = REWARDS[spec.reward].is_given
    scores = "reward and its change" if is_given else "scores and their changes"
    parts = {
        "losses": True,
        "action": settings.observe_action,
        "progress": settings.observe_progress,
        scores: settings.observe_scores,
    }
    return [name for name, is_observed in parts.items() if is_observed]


def largest(spec: ControllerSpec) -> int:
    """Return how many bytes the file of a policy of `spec` has at the most: arrays and header."""
    arrays = empty_arrays(spec)
    return 65_536 + 256 * len(arrays) + sum(array.nbytes for array in arrays.values())


def from_bytes(data: bytes, spec: ControllerSpec) -> PolicySnapshot:
    """Read the file form, from the store or from a stranger, for a controller of `spec`.

    Nothing in the file is trusted or run, and nothing larger than the spec's own arrays is read.

    Raises:
        InvalidArgument: field `policy`, saying what is wrong with the file and what would be right.
    """
    limit = largest(spec)
    if len(data) > limit:
        raise invalid("policy", f"has {len(data)} bytes; this controller's have at most {limit}")
    manifest = fitting_manifest(data, spec)
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise invalid("policy", f"is no intact safetensors file: {error!s:.99}") from error
    arrays = _of_same_reward(arrays, manifest, spec)
    check_arrays(arrays, spec)
    return PolicySnapshot(arrays)


def _of_same_reward(
    arrays: Mapping[str, np.ndarray], manifest: Mapping[str, object], spec: ControllerSpec
) -> dict[str, np.ndarray]:
    """Return arrays with reward statistics that count nothing, where the file's are not of use.

    A running mean of another reward, taken off for thousands of transitions to come, would be worse
    than none. A controller that does not centre rewards has no such statistics.
    """
    fresh = {n: a for n, a in empty_arrays(spec).items() if n.startswith("reward.")}
    is_same = manifest.get("reward") == spec.reward
    if is_same and fresh and fresh.keys() <= arrays.keys():
        return dict(arrays)
    return {n: a for n, a in arrays.items() if not n.startswith("reward.")} | fresh


def check_arrays(arrays: Mapping[str, np.ndarray], spec: ControllerSpec) -> None:
    """Check that `arrays` are those of a policy of `spec`, and within what a policy can hold.

    Raises:
        InvalidArgument: field `policy`, naming the array.
    """
    expected = empty_arrays(spec)
    if surplus := sorted(arrays.keys() - expected.keys()):
        raise invalid("policy", f"has arrays that this controller lacks: {surplus!r:.99}")
    for name, form in expected.items():
        _check_array(name, arrays.get(name), form)


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
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_repetition)
        metadata = header["__metadata__"]
        manifest = json.loads(metadata[_MANIFEST], object_pairs_hook=_without_repetition)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid("policy", "has no manifest; send what ExportPolicy wrote") from error
    if surplus := sorted(metadata.keys() - {_MANIFEST}):
        raise invalid("policy", f"has metadata beside its manifest: {surplus!r:.99}")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise invalid("policy", f"is not of format {FORMAT}, the one that this service reads")
    return manifest


def fitting_manifest(data: bytes, spec: ControllerSpec) -> dict[str, object]:
    """Return the manifest of a policy file whose arrays mean the same for `spec`.

    Raises:
        InvalidArgument: field `policy`: it is no policy file, or its arrays mean another thing.
    """
    manifest = read_manifest(data)
    for name, value in _meaning(spec).items():
        if (made_for := manifest.get(name, _UNSAID.get(name))) != value:
            raise invalid("policy", f"was made for {name} {made_for!r:.99}, here: {value!r}")
    return manifest


def hyperparameters(data: bytes) -> tuple[Hyperparameter, ...]:
    """Return the hyperparameters that a policy file of our own was made for."""
    listed: Any = read_manifest(data)["hyperparameters"]
    return tuple(Hyperparameter(**one) for one in listed)


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object whose names differ, so that every reader sees the same in it."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice")
    return content


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
    limit = _LIMITS.get(name, _WEIGHT_LIMIT)
    if not name.startswith(("optimizer.", "reward.")) and (np.abs(array) > limit).any():
        raise invalid("policy", f"array {name} has magnitudes above {limit:g}")
