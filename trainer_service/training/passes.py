"""What a child does with a batch: a training step, and a pass without gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer_service.training.child import build_child
from trainer_service.training.datasets import Images
from trainer_service.training.datasets.pixels import pixel_statistics
from trainer_service.training.regularizers import Regularization
from trainer_service.training.spec import Precision, TrainingSpec


class Passes:
    """One child with its regularizers and optimizer, on a device."""

    def __init__(self, spec: TrainingSpec, images: Images, device: torch.device) -> None:
        """Build the child, its weights drawn by torch's global generator.

        Args:
            spec: says what it is.
            images: their shape, classes and pixels' mean and deviation are taken from the training
                split.
            device: where it is put.
        """
        self._device = device
        self._is_bf16 = spec.precision is Precision.BF16
        mean, deviation = pixel_statistics(images.training.images)
        self._mean = mean.to(device)
        self._deviation = deviation.clamp(min=1e-3).to(device)
        _count, channels, height, width = images.training.images.shape
        child = build_child(
            spec,
            channels=channels,
            classes=len(images.class_names),
            image_size=min(height, width),
        )
        self.child: nn.Module = child.to(device)
        self.regularization = Regularization(spec, child, device)
        self.optimizer = torch.optim.Adam(
            self.child.parameters(), lr=spec.learning_rate, fused=True
        )

    def train(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one training step; return the loss and the predicted classes, on the device.

        Args:
            images: uint8[b, c, h, w].
            labels: int64[b].
        """
        self.child.train()
        logits = self._logits(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(-1)

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits in eval mode, where an image's do not depend on its batch."""
        self.child.eval()
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        """Return float32 logits [n, classes] of uint8 images [n, c, h, w]."""
        pixels = (images / 255.0 - self._mean) / self._deviation
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16):
            logits: Tensor = self.child(pixels)
        return logits.float()
