"""How a split's images come to the device: all of them beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from trainer_service.training.datasets import Split


class ResidentFeed:
    """A split that is held on the device, as uint8."""

    def __init__(self, split: Split, device: torch.device) -> None:
        """Copy the split to `device`."""
        self._images = split.images.to(device)
        self.labels = split.labels.to(device)
        """int64[n], on the device."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batches(self, places: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each of `places`, int64[b] on the device, as uint8[b, c, h, w]."""
        for batch in places:
            yield self._images[batch]
