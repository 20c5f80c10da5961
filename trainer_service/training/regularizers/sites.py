"""Modules that change features, and the random numbers of a pass.

Each child's generator fills a tensor of random numbers before every training pass, so a child draws
the same whatever trains beside it, and a compiled or captured pass draws nothing.

Sites also serve children that train as one model (see `stacked`): features then hold the channels
of K children side by side, each with its own strength and random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor, nn

from trainer_service.training.regularizers.regularizer import Regularizer

Shape = tuple[int, ...]


class Draws:
    """The random numbers of one training pass, for all sites of K children."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        shapes: Sequence[Shape],
        *,
        is_normal: bool,
        is_channels_last: bool = False,
    ) -> None:
        """Make room for the numbers of each site.

        Args:
            generators: one a child, on the device.
            shapes: of one child's features at each site, (b, c, ...).
            is_normal: N(0, 1) instead of uniform in [0, 1).
            is_channels_last: whether images' features lie so in memory.
        """
        self.generators = tuple(generators)
        self.shapes = tuple(shapes)
        self.is_normal = is_normal
        self.is_channels_last = is_channels_last
        sizes = [prod(shape) for shape in shapes]
        device = self.generators[0].device
        self._numbers = torch.zeros(len(self.generators), sum(sizes), device=device)
        self._places = tuple(pairwise(accumulate(sizes, initial=0)))

    def draw(self) -> None:
        """Draw all numbers anew."""
        for row, generator in zip(self._numbers, self.generators, strict=True):
            if self.is_normal:
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)

    def at(self, site: int) -> Tensor:
        """Return the numbers of a site, float32[b, K, c, ...]; they change with each `draw`."""
        start, end = self._places[site]
        batch, channels, *image = self.shapes[site]
        numbers = self._numbers[:, start:end]
        if self.is_channels_last and len(image) == 2:
            return numbers.view(-1, batch, *image, channels).permute(1, 0, 4, 2, 3)
        return numbers.view(-1, batch, channels, *image).transpose(0, 1)


class Site(nn.Module):
    """Applies a regularizer to the features of K children in training mode."""

    def __init__(
        self, regularizer: Regularizer, strengths: Tensor, *, before: nn.Module | None = None
    ) -> None:
        """Keep references; call `read` before the first training pass.

        Args:
            regularizer: changes the features.
            strengths: float32[K], shared with the caller; a parameter if the loss trains them.
            before: module applied next, in both modes.
        """
        super().__init__()
        self.regularizer = regularizer
        self.strengths = strengths
        self.before = before

    def read(self, draws: Draws, number: int) -> None:
        """Use the random numbers of the site at index `number`."""
        self.number = number
        self.numbers = draws.at(number)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features [b, K c, ...], changed in training mode."""
        if self.training:
            batch, _channels, *rest = features.shape
            by_child = features.view(batch, len(self.strengths), -1, *rest)
            strengths = self.strengths.view(-1, *[1] * (features.ndim - 1))
            changed = self.regularizer.features(by_child, self.numbers, strengths)
            features = changed.flatten(1, 2).to(features.dtype)
        return features if self.before is None else self.before(features)
