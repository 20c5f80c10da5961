"""FER2013 in each layout that Kaggle has had: two CSV files, image folders; and as arrays.

torchvision's reader takes only files with Kaggle's sums and has no validation split, so it is not
used here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent_service.domain.checks import quoted
from agent_service.text import csv_rows
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.folder import read_splits, split_folders
from trainer_service.training.datasets.listing import Listing
from trainer_service.training.datasets.npz import checked_images, checked_labels, read_arrays
from trainer_service.training.datasets.values import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    DataSet,
    Split,
    Stored,
    make_split,
)

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""By label."""
SIZE = 48
"""Pixels each way."""
USAGES = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
"""Splits of the challenge's usages: the leaderboard's validates, the final one tests."""
_COLUMNS = ("emotion", "pixels", "Usage")


def read_fer2013(folder: Path) -> Stored:
    """Read the first of fer2013.npz, fer2013.csv, icml_face_data.csv, train/ with test/.

    Kaggle's folders put both tests together, so none validates where val/ is not added.

    Raises:
        FileNotFoundError: there is none of them.
        DataError: naming file and line of what is wrong.
    """
    if (folder / "fer2013.npz").is_file():
        return Stored(_read_npz(folder / "fer2013.npz"), CLASSES)
    for name in ("fer2013.csv", "icml_face_data.csv"):
        if (folder / name).is_file():
            return Stored(_read_csv(folder / name), CLASSES)
    listing = Listing()
    folders = split_folders(folder, listing) if folder.is_dir() else {}
    if not {TRAIN, TEST} <= set(folders):
        raise FileNotFoundError(
            f"{folder} has none of fer2013.npz, fer2013.csv, icml_face_data.csv, train/ with test/"
        )
    form = ImageFiles(paths=(), channels=1, size=(SIZE, SIZE))
    return read_splits(folders, CLASSES, listing, form)


def _read_npz(path: Path) -> dict[str, Split]:
    arrays = read_arrays(path, ("images", "labels", "usage"))
    images = checked_images(path, arrays["images"])
    if images.shape[1:] != (1, SIZE, SIZE):
        raise DataError(f"{path}: images are {list(arrays['images'].shape)}; [n, {SIZE}, {SIZE}]")
    labels = checked_labels(path, arrays["labels"], count=len(images), classes=len(CLASSES))
    usage = arrays["usage"]
    if usage.shape != labels.shape or usage.dtype.kind not in "iu" or usage.max(initial=0) > 2:
        raise DataError(f"{path}: usage must be 0 (Training), 1 (PublicTest) or 2 (PrivateTest)")
    return {
        name: make_split(images[usage == number], labels[usage == number])
        for number, name in enumerate(SPLITS)
    }


def _read_csv(path: Path) -> dict[str, Split]:
    images: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    labels: dict[str, list[int]] = {name: [] for name in SPLITS}
    for place, row in csv_rows(path, _COLUMNS):
        split = USAGES.get(row["Usage"].strip())
        if split is None:
            raise DataError(
                f"{place}: usage {quoted(row['Usage'])} is not one of {', '.join(USAGES)}"
            )
        labels[split].append(_label(place, row["emotion"]))
        images[split].append(_pixels(place, row["pixels"]))
    for usage, split in USAGES.items():
        if not labels[split]:
            raise DataError(f"{path} has no image of {usage}; the file is cut: get it again")
    return {
        name: make_split(
            # A bytearray, since torch wants arrays that may be written.
            np.frombuffer(bytearray().join(images[name]), np.uint8).reshape(-1, 1, SIZE, SIZE),
            np.array(labels[name]),
        )
        for name in SPLITS
    }


def _label(place: str, text: str) -> int:
    if text.strip() not in {str(label) for label in range(len(CLASSES))}:
        raise DataError(f"{place}: emotion {quoted(text)} is not one of 0 to {len(CLASSES) - 1}")
    return int(text)


def _pixels(place: str, text: str) -> bytes:
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError as error:
        raise DataError(f"{place}: pixels must be whole numbers from 0 to 255") from error
    if len(pixels) != SIZE * SIZE:
        raise DataError(
            f"{place} has {len(pixels)} pixels, not {SIZE * SIZE}; the file is cut or changed: get "
            "it again"
        )
    return pixels


FER2013 = DataSet(
    title="FER2013: 35,887 faces in the wild, 48x48, grey, 7 expressions",
    terms="Challenge data, images from the web: research use, do not redistribute; cite "
    "Goodfellow et al., arXiv 1307.0414.",
    get="kaggle.com, challenges-in-representation-learning-facial-expression-recognition-"
    "challenge (fer2013.csv, icml_face_data.csv) or msambare/fer2013 (folders)",
    put="fer2013/: fer2013.npz, fer2013.csv, icml_face_data.csv, or train/ and test/, with or "
    "without val/",
    splits="Training, PublicTest (validates), PrivateTest (tests); the folders have both "
    "tests in one",
    read=read_fer2013,
    published={
        TRAIN: (3995, 436, 4097, 7215, 4830, 3171, 4965),
        VALIDATION: (467, 56, 496, 895, 653, 415, 607),
        TEST: (491, 55, 528, 879, 594, 416, 626),
    },
    cited="Kaggle's fer2013.csv; the sums in arXiv 1307.0414",
)
