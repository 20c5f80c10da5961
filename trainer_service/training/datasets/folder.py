"""Image folders: FOLDER/<class>/<image>, or FOLDER/<split>/<class>/<image>."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainer_service.training.datasets.files import DataError, open_files
from trainer_service.training.datasets.values import TEST, TRAIN, VALIDATION, Split, Stored
from trainer_service.training.vision import datasets

SPLIT_NAMES = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "test": TEST}
"""Names of splits in folders and arrays."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read_folder(folder: Path) -> Stored:
    """Read a folder of images by class; without `train` in it, all of them are for training.

    Raises:
        DataError: where a class folder is empty, or a split has classes that training lacks.
    """
    names = _folders(folder)
    if TRAIN in names:
        folders = {SPLIT_NAMES[name]: folder / name for name in names if name in SPLIT_NAMES}
    else:
        folders = {TRAIN: folder}
    class_names = tuple(_folders(folders[TRAIN]))
    if len(class_names) < 2:
        raise DataError(f"{folders[TRAIN]} has {len(class_names)} class folders; two are needed")
    splits = {split: read_classes(path, class_names) for split, path in folders.items()}
    shapes = {split.images.shape[1:] for split in splits.values()}
    if len(shapes) > 1:
        raise DataError(
            f"{folder}: the splits have images of different sizes: {sorted(shapes)}; bring "
            "all to one, or give --image-size"
        )
    return Stored(splits, class_names)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def read_classes(folder: Path, class_names: Sequence[str]) -> Split:
    """List FOLDER/<class>/<image>; a class's label is its place in `class_names`.

    Raises:
        DataError: where a class is missing, empty or unknown.
    """
    found = set(_folders(folder))
    if unknown := found - set(class_names):
        raise DataError(f"{folder} has unknown classes {sorted(unknown)}, not of {class_names}")
    labels = {name: label for label, name in enumerate(class_names)}
    if missing := set(class_names) - found:
        raise DataError(f"{folder} has no class folder {sorted(missing)[0]}; one a class is needed")
    try:
        samples = datasets.folder.make_dataset(str(folder), labels, extensions=SUFFIXES)
    except FileNotFoundError as error:
        empty = next(name for name in class_names if not _has_images(folder / name))
        raise DataError(
            f"class folder {folder / empty} has no image of {', '.join(SUFFIXES)}"
        ) from error
    files = open_files([path for path, _label in samples])
    return Split(files, torch.tensor([label for _path, label in samples]))


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))
