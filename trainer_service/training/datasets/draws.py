"""What is drawn from a data set by its seed: classes, missing splits, subset, label noise.

All methods of a study have the same draws, since these depend on nothing but data and spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.values import TEST, TRAIN, VALIDATION, Split, Stored
from trainer_service.training.spec import TEST_SHARE, TrainingSpec


def draw_classes(stored: Stored, spec: TrainingSpec) -> Stored:
    """Keep the spec's number of classes; labels are numbered anew, in their old order."""
    count, names = spec.classes, stored.class_names
    if count is None:
        return stored
    if count > len(names):
        raise DataError(f"classes {count}: {spec.dataset} has {len(names)}")
    draws = np.random.default_rng([spec.data_seed, 2])
    kept = np.sort(draws.choice(len(names), count, replace=False))
    splits = {name: _of_classes(split, kept) for name, split in stored.splits.items()}
    return Stored(splits, tuple(names[label] for label in kept))


def _of_classes(split: Split, kept: np.ndarray) -> Split:
    chosen = split.take(np.flatnonzero(np.isin(split.labels.numpy(), kept)))
    numbered = np.searchsorted(kept, chosen.labels.numpy())
    return Split(chosen.images, torch.from_numpy(numbered))


def with_all_splits(splits: Mapping[str, Split], spec: TrainingSpec) -> dict[str, Split]:
    """Draw the splits that are not there from the training split, by class."""
    every = dict(splits)
    for name, count in drawn_counts(splits, spec).items():
        every[TRAIN], every[name] = _stratified(every[TRAIN], count, spec)
    return every


def drawn_counts(splits: Mapping[str, Split], spec: TrainingSpec) -> dict[str, int]:
    """Return how many images each split that is not there draws from training, in this order."""
    left, counts = len(splits[TRAIN]), {}
    for name, share in ((TEST, TEST_SHARE), (VALIDATION, spec.validation_share)):
        if name not in splits:
            counts[name] = math.ceil(share * left)
            left -= counts[name]
    return counts


def draw_subset(split: Split, spec: TrainingSpec) -> Split:
    """Return the spec's number of training images, by class."""
    size = spec.training_size
    if size is None or size == len(split):
        return split
    if size > len(split):
        raise DataError(f"training_size {size}: {spec.dataset} has {len(split)} to train on")
    _rest, drawn = _stratified(split, size, spec)
    return drawn


def _stratified(split: Split, second: int, spec: TrainingSpec) -> tuple[Split, Split]:
    try:
        first, other = train_test_split(
            np.arange(len(split)),
            test_size=second,
            stratify=split.labels.numpy(),
            random_state=spec.data_seed % 2**32,
        )
    except ValueError as error:
        raise DataError(f"{spec.dataset} cannot be split by class: {error}") from error
    return split.take(first), split.take(other)


def mislabel(split: Split, spec: TrainingSpec, *, classes: int) -> Split:
    """Replace an exact share of the labels by another class, uniformly."""
    draws = np.random.default_rng([spec.data_seed, 1])
    labels = split.labels.numpy().copy()
    places = draws.permutation(len(labels))[: round(spec.label_noise * len(labels))]
    labels[places] = (labels[places] + draws.integers(1, classes, size=len(places))) % classes
    return Split(split.images, torch.from_numpy(labels))
