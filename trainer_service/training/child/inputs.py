"""Properties of images that a child is built for: shape, classes and pixel statistics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_service.training.datasets import Images
from trainer_service.training.datasets.pixels import pixel_statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The images of one data set, as a child is built for them."""

    channels: int
    """1 or 3."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    class_names: tuple[str, ...]
    """In the order of a child's logits."""
    mean: tuple[float, ...]
    """Mean of the training split's pixels, by channel, scaled to [0, 1]."""
    deviation: tuple[float, ...]
    """Likewise."""

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift that bring uint8 pixels to mean 0, deviation 1.

        Of the training split; float32[1, c, 1, 1] each.
        """
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.deviation))
        deviation = deviation.clamp(min=1e-3)
        return 1.0 / (255.0 * deviation), -mean / deviation


def inputs_of(images: Images) -> Inputs:
    """Return the properties of a data set; reads every pixel of the training split."""
    _count, channels, height, width = images.training.images.shape
    mean, deviation = pixel_statistics(images.training.images)
    return Inputs(
        channels=channels,
        height=height,
        width=width,
        class_names=tuple(images.class_names),
        mean=tuple(mean.flatten().tolist()),
        deviation=tuple(deviation.flatten().tolist()),
    )
