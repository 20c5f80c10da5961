"""How a device is found and set up, and a training step launched.

Defaults: eager everywhere. On CPU features lie contiguous: torch 2.13's oneDNN crashes with
channels last in a 1x1 convolution of stride 2 from 8 to 16 channels on 48x48 features, and narrow
children gain nothing from it. On CUDA they lie channels last, as its tensor cores take them; there
nothing has been measured yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agent_service.domain.errors import AgentError, invalid
from trainer_service.training.spec import Execution, MemoryFormat, Precision, TrainingSpec

COMPILER = "inductor"
"""torch.compile's backend."""
_WARM_UP_STEPS = 3
"""Steps before a capture, so that libraries have chosen their kernels and the optimizer its state
is there: as many as torch's own examples take."""


def find_device(name: str) -> torch.device:
    """Return the device of a name; raises AgentError where it is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AgentError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def describe_device(device: torch.device) -> str:
    """Return a device in words, for results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def prepare_device(spec: TrainingSpec, device: torch.device) -> torch.memory_format:
    """Set what torch sets for a whole process, and return how features lie in memory.

    Raises:
        InvalidArgument: where the device has no such precision, execution or format.
    """
    if device.type == "cuda":
        # Of its own accord torch would run convolutions of fp32 in TF32.
        mode = "tf32" if spec.precision is Precision.TF32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = mode
        torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
        is_last = spec.memory_format is not MemoryFormat.CONTIGUOUS
        return torch.channels_last if is_last else torch.contiguous_format
    for field, value, needed in (
        ("precision", spec.precision is Precision.TF32, "use fp32 or bf16"),
        ("execution", spec.execution is Execution.GRAPHS, "use eager or compiled"),
        ("memory_format", spec.memory_format is MemoryFormat.CHANNELS_LAST, "use auto"),
    ):
        if value:
            raise invalid(field, f"{getattr(spec, field)} is for CUDA devices only; {needed}")
    return torch.contiguous_format


def compiled(forward: Any) -> Any:
    """Return a pass that torch compiles when it is first called, for one shape of batches."""
    return torch.compile(forward, backend=COMPILER, dynamic=False)


class CapturedStep:
    """A training step that is captured as a CUDA graph, then replayed.

    The first steps are run as they are, on the side stream that a capture wants: they count as
    training like any other. All batches must have one shape.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Take the step; nothing is run yet."""
        self._step = step
        self._taken = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; see `TrainingStep`."""
        if self._taken < _WARM_UP_STEPS:
            self._taken += 1
            return self._on_side_stream(images, labels)
        if self._graph is None:
            self._images, self._labels = images.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._results = self._step(self._images, self._labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        # The next replay writes over the graph's own.
        losses, predictions = self._results
        return losses.clone(), predictions.clone()

    def _on_side_stream(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = self._step(images, labels)
        torch.cuda.current_stream().wait_stream(stream)
        return results
