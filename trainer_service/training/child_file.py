"""A trained child as a file: safetensors, with a JSON manifest in its metadata.

Reading one runs no code. The child that is read gives the logits that the trained one gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from agent_service.domain.errors import InvalidArgument, invalid
from trainer_service.training.child.inputs import Inputs
from trainer_service.training.chunk import FinalScores, Which
from trainer_service.training.digest import weights_digest
from trainer_service.training.passes import Passes
from trainer_service.training.spec import Execution, MemoryFormat, Precision, TrainingSpec

FORMAT = 1
"""Version of the file form; a file of another one is refused."""
_ENTRY = "reinforced-regularization"
"""The manifest's name: the only metadata, since safetensors keeps no order among several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Description of the weights of a file."""

    format: int = FORMAT
    run_id: str
    """The run that trained them."""
    training: TrainingSpec
    """That run's."""
    which: Which
    validation_score: float
    """Macro F1 of these weights on the whole validation split, in [0, 1]."""
    digest: str
    """SHA-256 of these weights; of the last ones it is also in the run's result."""
    inputs: Inputs
    """The images that the child is for."""


_MANIFEST = TypeAdapter(Manifest)


def child_file(
    state: Mapping[str, Any],
    scores: FinalScores,
    *,
    which: Which,
    run_id: str,
    training: TrainingSpec,
    inputs: Inputs,
) -> bytes:
    """Return the weights of a training, by its state after the last chunk, as a file."""
    is_best = which is Which.BEST
    # An epoch that the end cut is scored when training finishes: its weights are the last ones.
    is_scored = scores.best_epoch <= len(state["epoch_scores"])
    weights = state["best_weights"] if is_best and is_scored else state["weights"]
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    manifest = Manifest(
        run_id=run_id,
        training=training,
        which=which,
        validation_score=scores.validation_score_best if is_best else scores.validation_score_last,
        digest=weights_digest(weights),
        inputs=inputs,
    )
    return safetensors.torch.save(weights, {_ENTRY: _MANIFEST.dump_json(manifest).decode()})


class TrainedChild:
    """A child as its training left it."""

    def __init__(self, manifest: Manifest, passes: Passes) -> None:
        """Take what was built; `load_child` does."""
        self.manifest = manifest
        self.network: nn.Module = passes.child
        """In eval mode; takes normalized pixels."""
        self._passes = passes

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, float32[n, classes], of images, uint8[n, c, h, w], on its device."""
        return self._passes.evaluate(images)


def load_child(data: bytes, device: torch.device | None = None) -> TrainedChild:
    """Build the child of a file again, in eval mode.

    The device may be of another kind than it was trained on. A child that started from ImageNet's
    weights is built from these first, so they must be at hand.

    Args:
        data: the file, whole.
        device: where the child is put; None is the CPU.

    Raises:
        InvalidArgument: field `file`, where it is no such file or not whole; field `start`, where
            ImageNet's weights are not at hand.
    """
    manifest = read_manifest(data)
    try:
        weights = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise invalid("file", f"is no intact safetensors file: {error!s:.99}") from error
    if weights_digest(weights) != manifest.digest:
        raise invalid("file", "its weights are not those of its manifest: it is damaged")
    device = device or torch.device("cpu")
    spec = _evaluated(manifest.training, device)
    # What is drawn here is overwritten: who calls should not see that anything was drawn.
    with torch.random.fork_rng(devices=[]):
        passes = Passes(spec, manifest.inputs, device, batch=1)
    try:
        passes.child.load_state_dict(weights)
    except RuntimeError as error:
        raise invalid("file", f"its weights are of another child: {error!s:.200}") from error
    passes.child.eval()
    return TrainedChild(manifest, passes)


def _evaluated(spec: TrainingSpec, device: torch.device) -> TrainingSpec:
    """Return a spec without what only training needs, or only another kind of device has."""
    precision = spec.precision
    if device.type == "cpu" and precision is Precision.TF32:
        precision = Precision.FP32
    return replace(
        spec, precision=precision, execution=Execution.EAGER, memory_format=MemoryFormat.AUTO
    )


def read_manifest(data: bytes) -> Manifest:
    """Return what the weights of a file are.

    The layout is 8 bytes with the header's length, little endian, then the header, JSON.

    Raises:
        InvalidArgument: field `file`, where this is no such file or one of another format.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise invalid("file", "is no safetensors file; take what `trainer-service weights` wrote")
    try:
        text = json.loads(data[8 : 8 + length])["__metadata__"][_ENTRY]
        number = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        text = "has no manifest; take what `trainer-service weights` wrote"
        raise invalid("file", text) from error
    if number != FORMAT:
        raise invalid("file", f"is of format {number!r:.20}; this version reads {FORMAT}")
    try:
        return _MANIFEST.validate_json(text)
    except (ValidationError, InvalidArgument) as error:
        reason = " ".join(str(error).split())
        raise invalid("file", f"its manifest is wrong: {reason:.200}") from error
