"""CIFAR-10 and CIFAR-100, by torchvision's readers, which check the files' sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.values import TEST, TRAIN, Stored, make_split
from trainer_service.training.vision import datasets

_READERS: dict[str, Any] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def read_cifar10(folder: Path) -> Stored:
    """Read FOLDER/cifar-10-batches-py: 32x32 in colour, training and test."""
    return _read("cifar10", folder)


def read_cifar100(folder: Path) -> Stored:
    """Read FOLDER/cifar-100-python: 32x32 in colour, training and test, the 100 fine classes."""
    return _read("cifar100", folder)


def _read(name: str, folder: Path) -> Stored:
    reader = _READERS[name]
    if not (folder / reader.base_folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder / reader.base_folder}")
    try:
        parts = {
            split: reader(folder, train=is_training)
            for split, is_training in ((TRAIN, True), (TEST, False))
        }
    except RuntimeError as error:  # how torchvision says that a file is missing or has another sum
        raise DataError(
            f"{folder / reader.base_folder} is not whole; have it made again: "
            f"trainer-service datasets download {name} --data {folder.parent}"
        ) from error
    splits = {
        split: make_split(part.data.transpose(0, 3, 1, 2), np.array(part.targets))
        for split, part in parts.items()
    }
    return Stored(splits, tuple(parts[TRAIN].classes))


def download_cifar(name: str, folder: Path) -> None:
    """Download and unpack into `folder`; an archive that is there already is only unpacked.

    Raises:
        DataError: where it cannot be had.
    """
    reader = _READERS[name]
    try:
        reader(folder, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{reader.url} cannot be downloaded ({error}); put {reader.filename} into {folder} by "
            "other means, and call this again to unpack it"
        ) from error
