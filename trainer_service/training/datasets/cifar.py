"""CIFAR-10 and CIFAR-100, by torchvision's readers, which check the files' sums."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.values import TEST, TRAIN, DataSet, Stored, make_split
from trainer_service.training.vision import datasets

_READERS: dict[str, Any] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def _read(name: str, folder: Path) -> Stored:
    """Read the folder that torchvision unpacks: 32x32 in colour, training and test."""
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


def _download(name: str, folder: Path) -> None:
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


_TERMS = "Free for research; cite Krizhevsky, Learning Multiple Layers of Features, 2009."
CIFAR10 = DataSet(
    title="CIFAR-10: 60,000 small photographs, 32x32, colour, 10 classes",
    terms=_TERMS,
    get="trainer-service datasets download cifar10 (170 MB, www.cs.toronto.edu/~kriz)",
    put="cifar10/cifar-10-batches-py/",
    splits="training, test",
    read=partial(_read, "cifar10"),
    published={TRAIN: (5000,) * 10, TEST: (1000,) * 10},
    download=partial(_download, "cifar10"),
    cited="www.cs.toronto.edu/~kriz/cifar.html",
)
CIFAR100 = DataSet(
    title="CIFAR-100: 60,000 small photographs, 32x32, colour, 100 classes",
    terms=_TERMS,
    get="trainer-service datasets download cifar100 (169 MB, www.cs.toronto.edu/~kriz)",
    put="cifar100/cifar-100-python/",
    splits="training, test",
    read=partial(_read, "cifar100"),
    published={TRAIN: (500,) * 100, TEST: (100,) * 100},
    download=partial(_download, "cifar100"),
    cited="www.cs.toronto.edu/~kriz/cifar.html",
)
