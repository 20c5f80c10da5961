"""A spec's data set, read and made ready: the order of all that is done to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.draws import (
    draw_classes,
    draw_subset,
    mislabel,
    with_all_splits,
)
from trainer_service.training.datasets.duplicates import without_duplicates
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.listing import in_words
from trainer_service.training.datasets.memory import Memory, fits
from trainer_service.training.datasets.pixels import read_all, with_sizes
from trainer_service.training.datasets.values import TEST, TRAIN, VALIDATION, Images, Split
from trainer_service.training.spec import TrainingSpec

log = logging.getLogger(__name__)


def load_images(spec: TrainingSpec, root: Path, memory: Memory = Memory.AUTO) -> Images:
    """Read the data set of `spec` and make it ready, in this order.

    Size, classes, missing splits, duplicates, subset, label noise. All is drawn by
    `spec.data_seed`, so it is the same for every method of a study.

    Args:
        spec: names the data set and what is done to it.
        root: the data folder.
        memory: where the images are held; files that do not fit in memory stay files.

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
    """Read files into memory if all of them fit, or must; what is there already stays there."""
    files = [split for split in splits.values() if isinstance(split.images, ImageFiles)]
    size = sum(split.bytes for split in files)
    if memory is Memory.STREAMED or (memory is Memory.AUTO and not fits(size, torch.device("cpu"))):
        return dict(splits)
    if files:
        log.info("reading %d MB of images into memory", size // 2**20)
    return {name: read_all(split) for name, split in splits.items()}
