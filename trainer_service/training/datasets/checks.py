"""Checks of a data set: counts, duplicates, conflicting labels, blank images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from trainer_service.training.datasets.pixels import chunks, fingerprints
from trainer_service.training.datasets.values import SPLITS, TEST, VALIDATION, DataSet, Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Findings in a data set as it is stored."""

    counts: Mapping[str, tuple[int, ...]]
    """Images by split, then by class."""
    duplicates: int
    """Images of the whole set beyond the first of each."""
    duplicates_within: Mapping[str, int]
    """By split: images beyond the first of each."""
    shared: Mapping[tuple[str, str], int]
    """By two splits: images of the second that stand in the first, too."""
    conflicts: int
    """Groups of the same pixels under different labels."""
    blank: int
    """Images of one level only."""


def find(stored: Stored) -> Findings:
    """Read every image and look; raises DataError where one cannot be read."""
    names = [name for name in SPLITS if name in stored.splits]
    splits = {name: stored.splits[name] for name in names}
    found: dict[str, list[bytes]] = {}
    blank = 0
    for name, split in splits.items():
        found[name] = []
        for chunk in chunks(split.images):
            found[name] += fingerprints(chunk)
            blank += _blank(chunk)
    labels: dict[bytes, set[int]] = {}
    for name, split in splits.items():
        for fingerprint, label in zip(found[name], split.labels.tolist(), strict=True):
            labels.setdefault(fingerprint, set()).add(label)
    classes = len(stored.class_names)
    distinct = {name: set(f) for name, f in found.items()}
    return Findings(
        counts={
            name: tuple(torch.bincount(split.labels, minlength=classes).tolist())
            for name, split in splits.items()
        },
        duplicates=sum(map(len, found.values())) - len(labels),
        duplicates_within={name: len(f) - len(distinct[name]) for name, f in found.items()},
        shared={(a, b): sum(f in distinct[a] for f in found[b]) for a, b in combinations(names, 2)},
        conflicts=sum(len(different) > 1 for different in labels.values()),
        blank=blank,
    )


def _blank(images: Tensor) -> int:
    """Return how many images have the same value everywhere, in each channel."""
    is_flat = images.amax(dim=(2, 3)) == images.amin(dim=(2, 3))
    return int(is_flat.all(dim=1).sum())


def published_counts(dataset: DataSet, stored: Stored) -> Mapping[str, tuple[int, ...]]:
    """Return the published counts for the splits that are stored; empty where there are none.

    FER2013's image folders put validation and test together as test.
    """
    published = dict(dataset.published)
    if VALIDATION in published and VALIDATION not in stored.splits:
        together = zip(published.pop(VALIDATION), published[TEST], strict=True)
        published[TEST] = tuple(a + b for a, b in together)
    return published
