"""A spec's data set, read and made ready: the order of all that is done to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from agent_service.domain.checks import quoted
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.listing import in_words
from trainer_service.training.datasets.memory import Memory, fits
from trainer_service.training.datasets.pixels import read_all, with_sizes, without_duplicates
from trainer_service.training.datasets.values import TEST, TRAIN, VALIDATION, Images, Split, Stored
from trainer_service.training.spec import TEST_SHARE, TrainingSpec

log = logging.getLogger(__name__)

SHOWN_NAMES = 20
"""Classes that an error lists at the most."""


def load_images(spec: TrainingSpec, root: Path, memory: Memory = Memory.AUTO) -> Images:
    """Read the data set of `spec` and make it ready.

    In this order: size, classes, missing splits, duplicates, subset, label noise. All is drawn by
    `spec.data_seed`, so it is the same for every method of a study. Files that do not fit in memory
    stay files.

    Raises:
        DataError: where the data set is not there, or wrong.
    """
    stored = read_stored(spec.dataset, root)
    if stored.left_out:
        log.info("%s: not read: %s", spec.dataset, in_words(stored.left_out))
    stored = draw_classes(stored, spec)
    splits = with_sizes(with_all_splits(stored.splits, spec), spec.image_size)
    if spec.deduplicate:
        splits = without_duplicates(_held(splits, memory))
    _check(splits, stored.class_names, spec.dataset)
    training = draw_subset(splits[TRAIN], spec)
    training = mislabel(training, spec, classes=len(stored.class_names))
    splits = _held({**splits, TRAIN: training}, memory)
    return Images(
        training=splits[TRAIN],
        validation=splits[VALIDATION],
        test=splits[TEST],
        class_names=stored.class_names,
        memory=memory,
    )


def _check(splits: Mapping[str, Split], class_names: tuple[str, ...], dataset: str) -> None:
    """Check that nothing is empty: no split, and no class of the training split."""
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"{dataset} has no image left in its {name} split")
    counts = torch.bincount(splits[TRAIN].labels, minlength=len(class_names)).tolist()
    if 0 in counts:
        raise DataError(
            f"{dataset} has no training image of class {class_names[counts.index(0)]!r}; each "
            "class needs some"
        )


def _held(splits: Mapping[str, Split], memory: Memory) -> dict[str, Split]:
    """Read files into memory if all of them fit, or must; others are in memory already."""
    files = [split for split in splits.values() if isinstance(split.images, ImageFiles)]
    size = sum(split.bytes for split in files)
    if memory is Memory.STREAMED or (memory is Memory.AUTO and not fits(size, torch.device("cpu"))):
        return dict(splits)
    if files:
        log.info("reading %d MB of images into memory", size // 2**20)
    return {name: read_all(split) for name, split in splits.items()}


# What is drawn by the data seed: it depends on nothing but data and spec, so all methods share it


def draw_classes(stored: Stored, spec: TrainingSpec) -> Stored:
    """Keep the spec's classes, by name and by number; labels are renumbered in their order."""
    names = stored.class_names
    if spec.classes is None and not spec.class_names:
        return stored
    kept = np.array(sorted(_labels(spec, names)))
    if spec.classes is not None:
        if spec.classes > len(kept):
            raise DataError(f"classes {spec.classes}: {spec.dataset} has {len(names)}")
        draws = np.random.default_rng([spec.data_seed, 2])
        kept = np.sort(draws.choice(kept, spec.classes, replace=False))
    splits = {name: _of_classes(split, kept) for name, split in stored.splits.items()}
    return Stored(splits, tuple(names[label] for label in kept))


def _labels(spec: TrainingSpec, names: Sequence[str]) -> Iterable[int]:
    """Return the labels of the classes that a spec names, or of all; raises DataError."""
    for name in spec.class_names:
        if name not in names:
            text = f"class_names: {spec.dataset} has no class {quoted(name)}"
            raise DataError(f"{text}; {_meant(name, names)}")
    return map(names.index, spec.class_names) if spec.class_names else range(len(names))


def _meant(name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches  # slow to import, and only needed for an error

    if near := get_close_matches(name, names):
        return f"did you mean {' or '.join(map(quoted, near))}?"
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    return f"it has {', '.join(map(quoted, names[:SHOWN_NAMES]))}{more}"


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
