"""Images that stay files until they are read; knows no data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer_service.training.datasets.decoding import (
    DataError,
    decoded_pixels,
    form_of,
    has_colour,
)
from trainer_service.training.vision import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Images as files: what they are once read, without holding them.

    Where it can, it acts as a tensor uint8[n, c, h, w] does: it has a shape and a length, and is
    read by indexing.
    """

    paths: tuple[str, ...]
    channels: int
    """1 for grey files; with 3, grey ones among them are read as colour."""
    size: tuple[int, int]
    """Height and width in pixels."""
    is_resized: bool = False
    """Whether images of another size are brought to this one; else they are refused."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number, channels, height and width."""
        return (len(self.paths), self.channels, *self.size)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """Read the images at `places`, int64[b], in that order, as uint8[b, c, h, w].

        Raises:
            DataError: naming the file that cannot be read, or has another size or mode.
        """
        found = torch.arange(len(self))[places].tolist()
        return torch.stack([self._read(self.paths[place]) for place in found])

    def take(self, places: Sequence[int]) -> ImageFiles:
        """Return the files at `places`, unread."""
        return replace(self, paths=tuple(self.paths[place] for place in places))

    def _read(self, path: str) -> Tensor:
        pixels = decoded_pixels(path, channels=self.channels)
        image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
        image = image.contiguous()
        if image.shape[1:] == self.size:
            return image
        if not self.is_resized:
            raise DataError(
                f"{path} is {tuple(image.shape)}, others are {self.shape[1:]} (channels, height, "
                "width); bring all to one size, or give --image-size"
            )
        resized: Tensor = functional.resize(image, list(self.size), antialias=True)
        return resized


def open_files(paths: Sequence[str]) -> ImageFiles:
    """Return files of the first's size, with three channels where any of them has colour, else one.

    Raises:
        DataError: where the first cannot be read.
    """
    channels, size = form_of(paths[0])
    if channels == 1 and any(map(has_colour, paths[1:])):
        channels = 3
    return ImageFiles(paths=tuple(paths), channels=channels, size=size)
