"""AffectNet: the official layout of eight expressions, and the lists of the larger release."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from agent_service.domain.checks import quoted
from agent_service.text import csv_rows
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.folder import split_folders
from trainer_service.training.datasets.listing import Listing
from trainer_service.training.datasets.values import (
    TEST,
    TRAIN,
    VALIDATION,
    DataSet,
    Split,
    Stored,
)

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""By label; 7 is contempt, the eighth expression."""
DROPPED = {8: "none", 9: "uncertain", 10: "no face"}
"""Labels of images that show no expression."""
SIZE = 224
"""Pixels each way that images are brought to."""
_LISTS = ("Manually_Annotated_file_lists", ".")
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", ".")
"""Possible folders of the larger release's lists, and of the images that they name."""


def read_affectnet(folder: Path) -> Stored:
    """Read train_set/ and val_set/, or training.csv and validation.csv with the images they name.

    The official validation set is the test set: the real one was never published. Images are taken
    whole, not cut to the lists' face boxes.

    Raises:
        FileNotFoundError: where neither is there.
        DataError: naming what is wrong.
    """
    listing = Listing()
    sets = _sets(folder, listing)
    if {TRAIN, VALIDATION} <= set(sets):
        parts = {TRAIN: sets[TRAIN], TEST: sets[VALIDATION]}
        samples = {split: _read_set(path, listing) for split, path in parts.items()}
        listing.check_once(path for part in samples.values() for path, _label in part)
        splits = {split: _split(samples[split], path) for split, path in parts.items()}
        return Stored(splits, CLASSES, listing.left_out)
    for lists in (folder / name for name in _LISTS):
        if all((lists / name).is_file() for name in ("training.csv", "validation.csv")):
            root = next(folder / name for name in _IMAGES if (folder / name).is_dir())
            parts = {TRAIN: lists / "training.csv", TEST: lists / "validation.csv"}
            splits = {name: _read_list(path, root) for name, path in parts.items()}
            return Stored(splits, CLASSES)
    raise FileNotFoundError(
        f"{folder} has neither train_set/ with val_set/ nor training.csv with validation.csv"
    )


def _split(samples: Iterable[tuple[str, int]], origin: Path) -> Split:
    kept = [(path, label) for path, label in samples if label not in DROPPED]
    if not kept:
        raise DataError(f"{origin} has no image with one of the {len(CLASSES)} expressions")
    paths, labels = zip(*kept, strict=True)
    files = ImageFiles(paths=paths, channels=3, size=(SIZE, SIZE), is_resized=True)
    return Split(files, torch.tensor(labels))


def _checked_label(text: str, place: str) -> int:
    known = range(len(CLASSES) + len(DROPPED))
    try:
        label = int(text)
    except ValueError:
        label = -1
    if label not in known:
        raise DataError(f"{place}: expression {quoted(text)} is not one of 0 to {known[-1]}")
    return label


# The official layout: images/ID.jpg and annotations/ID_exp.npy


def _sets(folder: Path, listing: Listing) -> dict[str, Path]:
    """Return train_set/ and val_set/, in any case, where they are."""
    found = split_folders(folder, listing) if folder.is_dir() else {}
    if TEST in found:
        raise DataError(f"{found[TEST]} is no part of the release; move it away")
    return found


def _read_set(folder: Path, listing: Listing) -> list[tuple[str, int]]:
    """Return path and label of each image."""
    found: dict[str, str] = {}
    for path in listing.images(folder / "images"):
        name = Path(path).stem
        if found.setdefault(name, path) != path:
            raise DataError(f"{path} and {found[name]} have the same annotation; remove one")
    return [(path, _annotated(folder, name)) for name, path in found.items()]


def _annotated(folder: Path, name: str) -> int:
    """Return the label of an image: an array of one number, or of its text."""
    path = folder / "annotations" / f"{name}_exp.npy"
    if not path.is_file():
        raise DataError(f"{path} is missing: image {name} has no expression; unpack the set again")
    try:
        label = np.load(path, allow_pickle=False).item()
    except Exception as error:  # as for images: what is damaged raises most of what NumPy can
        raise DataError(f"{path} is no readable array of one label: {error}") from error
    return _checked_label(str(label), str(path))


# The larger release: lists of images in subfolders


def _read_list(path: Path, images: Path) -> Split:
    """Read one list; images that both lists have are counted by `datasets check`."""
    samples = []
    places: dict[str, str] = {}
    for place, row in csv_rows(path, ("subDirectory_filePath", "expression")):
        label = _checked_label(row["expression"], place)
        if label in DROPPED:
            continue
        name = row["subDirectory_filePath"].strip()
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{place}: {quoted(name)} is outside of {images}; remove the line")
        if not os.path.isfile(images / name):
            found = f"there is no image {quoted(name)} in {images}"
            raise DataError(f"{place}: {found}; unpack the images there")
        image = str(images / name)
        if places.setdefault(image, place) != place:
            raise DataError(f"{place}: {quoted(name)} is also in {places[image]}; remove one")
        samples.append((image, label))
    return _split(samples, path)


AFFECTNET = DataSet(
    title="AffectNet: 291,651 faces in the wild with 8 expressions, read as 224x224, colour",
    terms="Research only, by a signed agreement; cite Mollahosseini et al., arXiv 1708.03985.",
    get="ask its authors: mohammadmahoor.com/affectnet",
    put="affectnet/: train_set/ and val_set/ with images/ID.jpg, annotations/ID_exp.npy; or "
    "training.csv, validation.csv and Manually_Annotated_Images/",
    splits="training, and the official validation set, which tests",
    read=read_affectnet,
    published={
        TRAIN: (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
        TEST: (500,) * 8,
    },
    cited="arXiv 1708.03985, table 3, of which 500 a class validate; one release lacks one",
)
