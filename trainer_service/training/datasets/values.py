"""A data set, its splits, its stored form, and the form that a child trains on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.memory import Memory

Pixels = Tensor | ImageFiles
"""Images of a split: uint8[n, c, h, w], in memory or as files."""
TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
"""Names of splits, in the order of a training."""
_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel"), VALIDATION),
    **dict.fromkeys(("development", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "tests", "testing"), TEST),
}
_ALIKE = {"trn", "tst", *_WORDS}
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ENDING = re.compile(r"[\W_]*(set|data|dataset|split|images?)?[\W_]*$")


def split_named(name: str) -> str | None:
    """Return the split that a name means, as `Valid` or `test_set`; None for other names."""
    return _WORDS.get(_ENDING.sub("", name.lower(), count=1))


def is_like_split(name: str) -> bool:
    """Return whether a word of a name is a split's: `train2017`, `01_test`, `PublicTest`, `trn`."""
    return any(_ENDING.sub("", part.lower(), count=1) in _ALIKE for part in _PART.findall(name))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images and their labels."""

    images: Pixels
    """uint8[n, c, h, w], or files that are read to that."""
    labels: Tensor
    """int64[n], in [0, classes)."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, places: npt.NDArray[np.int64]) -> Split:
        """Return the images at `places`, int64[b], in that order; files stay unread."""
        chosen = torch.from_numpy(places)
        if isinstance(self.images, ImageFiles):
            return Split(self.images.take(places.tolist()), self.labels[chosen])
        return Split(self.images[chosen], self.labels[chosen])

    @property
    def bytes(self) -> int:
        """Memory that the images take once they are read."""
        count, channels, height, width = self.images.shape
        return count * channels * height * width


def make_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Return a split of arrays uint8[n, c, h, w] and int[n]."""
    return Split(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A data set as it is stored: only the splits that it has itself, `train` among them."""

    splits: Mapping[str, Split]
    """By name, of SPLITS."""
    class_names: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Entries of its folder that are not read, by suffix or by what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set, or one kind of data sets of a user's own."""

    title: str
    terms: str
    get: str
    """Source, or the command that downloads it."""
    put: str
    """Paths below the data folder."""
    splits: str
    """Which splits it has itself, and what becomes of them."""
    read: Callable[[Path], Stored]
    """Raises FileNotFoundError where the folder holds none of its layouts, else DataError."""
    published: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Images by split, then by class in the order of labels; empty where none are published."""
    cited: str = ""
    """Source of the counts."""
    download: Callable[[Path], None] | None = None
    """Downloads it into a folder, if it is freely available; raises DataError."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Images:
    """A data set in its three splits."""

    training: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    memory: Memory = Memory.AUTO
    """Storage of its images while a child trains."""
