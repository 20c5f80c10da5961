"""A child's work on a batch: a training step, and a pass without gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from agent_service.domain.errors import invalid
from trainer_service.training.child.execution import CapturedStep, compiled, prepare_device
from trainer_service.training.child.inputs import Inputs
from trainer_service.training.child.network import build_child, input_size
from trainer_service.training.regularizers.installed import Regularization
from trainer_service.training.regularizers.regularizer import Regularizer
from trainer_service.training.regularizers.sites import Draws
from trainer_service.training.sites import watch_pass
from trainer_service.training.spec import Execution, Precision, TrainingSpec

_LIVE_FEATURES = 4
"""Largest features that are in memory at once in a pass without gradient, at the most."""
_CACHED_BYTES = 2**22
"""Largest features that a CPU works on fast: ResNet34 of an eighth of the channels took 1.4 ms an
image of 48x48 in passes of 64 (5 MB), 2.5 ms in passes of 448; of 8x8 0.08 ms and 0.04 ms."""


@dataclass(eq=False, kw_only=True)
class Forward:
    """A pass through a network, from uint8 images to float32 logits."""

    network: nn.Module
    pixels: Pixels
    is_bf16: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32[n, classes] of uint8[n, c, h, w]."""
        # Nothing is cast twice in a pass, and a captured one must cast anew: no cache.
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=self.is_bf16, cache_enabled=False
        ):
            logits: Tensor = self.network(self.pixels(images))
        return logits.float()


@dataclass(eq=False, kw_only=True)
class Pixels:
    """Brings uint8 images to mean 0 and deviation 1 of the training split, by channel."""

    scale: Tensor
    shift: Tensor
    """float32[1, c, 1, 1] each."""
    size: int | None = None
    """Side that images are resized to, if any."""
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32[n, c, h, w] of uint8 images of that shape, or of `size`."""
        pixels = torch.addcmul(self.shift, images, self.scale)
        if self.size is not None and pixels.shape[-2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
        return pixels.contiguous(memory_format=self.memory_format)


class TrainingStep:
    """A training step of K children whose channels lie side by side in one network."""

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        regularizer: Regularizer,
        strengths: Mapping[str, Tensor],
        draws: Draws | None,
        *,
        execution: Execution,
    ) -> None:
        """Take all that a step needs.

        Args:
            forward: through the network of all K children, in train mode when it is called.
            optimizer: of all its parameters.
            regularizer: of all K children.
            strengths: float32[K] of each hyperparameter, by name.
            draws: the noise of a pass; None without noise.
            execution: how a step is launched.
        """
        self._forward = forward
        self._optimizer = optimizer
        self._regularizer = regularizer
        self._strengths = strengths
        self._draws = draws
        self._numbers = [] if draws is None else [draws.at(i) for i in range(len(draws.shapes))]
        self._step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self._eager
        if execution is Execution.COMPILED:
            self._forward = compiled(forward)
        elif execution is Execution.GRAPHS:
            self._step = CapturedStep(self._eager)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32[K] losses and int64[b, K] predictions, on the device.

        Args:
            images: uint8[b, K c, h, w].
            labels: int64[b, K].
        """
        if self._draws is not None:
            self._draws.draw()
        return self._step(images, labels)

    def _eager(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._forward(images).view(*labels.shape, -1)
        by_image = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        )
        regularized = self._regularizer.loss(
            by_image.view(labels.shape), logits, labels, self._numbers, self._strengths
        )
        losses = regularized.mean(0)
        self._optimizer.zero_grad(set_to_none=True)
        # A child's loss depends on its own weights only, so the sum's gradient is each one's own.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            self._regularizer.optimizer(self._optimizer, self._strengths)
        return losses.detach(), logits.detach().argmax(-1)


class Passes:
    """One child with its regularizers and optimizer, on a device."""

    def __init__(
        self, spec: TrainingSpec, inputs: Inputs, device: torch.device, *, batch: int
    ) -> None:
        """Build the child for steps of `batch` images; torch's global generator draws its weights.

        Raises:
            InvalidArgument: where the child does not fit the images, or the device.
        """
        memory_format = prepare_device(spec, device)
        given = (inputs.channels, inputs.height, inputs.width)
        self.child = build_child(spec, given, classes=len(inputs.class_names))
        self.child.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
        size = input_size(spec)
        shape = (inputs.channels, size or inputs.height, size or inputs.width)
        calls = watch_pass(self.child, shape)
        self._calls = calls
        self._batch, self._is_cpu = batch, device.type == "cpu"
        self.regularization = Regularization(
            spec,
            self.child,
            calls,
            batch=batch,
            device=device,
            is_channels_last=memory_format is torch.channels_last,
        )
        scale, shift = (t.to(device) for t in inputs.normalization())
        pixels = Pixels(scale=scale, shift=shift, size=size, memory_format=memory_format)
        is_bf16 = spec.precision is Precision.BF16
        self.forward = Forward(network=self.child, pixels=pixels, is_bf16=is_bf16)
        self.optimizer = adam(self.child.parameters(), spec)
        self._step = TrainingStep(
            self.forward,
            self.optimizer,
            self.regularization.regularizer,
            self.regularization.strengths,
            self.regularization.draws,
            execution=spec.execution,
        )

    def evaluation_images(self, children: int = 1) -> int:
        """Return how many images of each child a pass without gradient may have.

        A training step keeps the features of all layers for its backward pass, one without gradient
        only those at hand, so it may have more images in the same memory. On a CPU the features
        should stay in its cache, too, but for those of a batch in all.

        Args:
            children: that are evaluated side by side, each like this one.
        """
        sizes = [prod(call.shape) for call in self._calls if call.is_leaf]
        images = self._batch * max(1, sum(sizes) // (_LIVE_FEATURES * max(sizes)))
        if self._is_cpu:
            images = min(images, _CACHED_BYTES // (4 * max(sizes) * children))
        return max(-(-self._batch // children), images)

    def check_single_images(self) -> None:
        """Check that steps of one image can be taken: no batch norm has one value of each channel.

        Raises:
            InvalidArgument: naming the field `batch_size`.
        """
        for call in self._calls:
            module = self.child.get_submodule(call.name)
            if isinstance(module, nn.BatchNorm2d) and prod(call.shape[1:]) == 1:
                text = f"a batch has 1 image, and {call.name} normalizes over it; give at least 2"
                raise invalid("batch_size", text)

    def train(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step on uint8[b, c, h, w] and int64[b]; return loss and predictions, unread."""
        if not self.child.training:
            self.child.train()
        losses, predictions = self._step(images, labels[:, None])
        return losses[0], predictions[:, 0]

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits in eval mode, where an image's do not depend on its batch."""
        if self.child.training:
            self.child.eval()
        return self.forward(images)


def adam(parameters: object, spec: TrainingSpec) -> torch.optim.Adam:
    """Return the optimizer of section 4.1: Adam, no schedule."""
    return torch.optim.Adam(
        parameters,  # type: ignore[arg-type]
        lr=spec.learning_rate,
        fused=True,
        capturable=spec.execution is Execution.GRAPHS,
    )
