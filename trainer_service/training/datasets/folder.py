"""Image folders: FOLDER/<class>/<image>, or FOLDER/<split>/<class>/<image>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles, open_files
from trainer_service.training.datasets.listing import SUFFIXES, Listing
from trainer_service.training.datasets.values import (
    SPLITS,
    TRAIN,
    DataSet,
    Split,
    Stored,
    is_like_split,
    split_named,
)


def read_folder(folder: Path) -> Stored:
    """Read a folder of images by class; without split folders, all of them are for training.

    Raises:
        FileNotFoundError: where it is not there.
        DataError: where splits or classes are not clear, a class has no image to train on, or a
            split has a class that training lacks.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    listing = Listing()
    folders = split_folders(folder, listing) or {TRAIN: folder}
    class_names = tuple(listing.folders(folders[TRAIN]))
    if len(class_names) < 2:
        raise DataError(f"{folders[TRAIN]} has {len(class_names)} class folders; two are needed")
    if splits := [name for name in class_names if split_named(name)]:
        raise DataError(
            f"{folders[TRAIN]} has the split {splits[0]}/ beside classes; if it is one, rename it"
        )
    return read_splits(folders, class_names, listing)


def split_folders(folder: Path, listing: Listing) -> dict[str, Path]:
    """Return the folders that are splits, by split; empty where none has a split's name.

    Raises:
        DataError: two mean the same split, training lacks, others with images stand beside, or all
            names are no split's, and like one.
    """
    found: dict[str, str] = {}
    others = []
    for name in listing.folders(folder):
        split = split_named(name)
        if split is None:
            others.append(name)
        elif found.setdefault(split, name) != name:
            raise DataError(
                f"{folder} has {found[split]}/ and {name}/, both for {split}; merge them, or move "
                "one away"
            )
    if found and TRAIN not in found:
        names = "/, ".join(found.values())
        raise DataError(
            f"{folder} has {names}/, named as splits, without train/; add it, or rename classes"
        )
    if not found:
        _check_classes(folder, others)
    for name in others if found else ():
        if listing.images(folder / name):
            raise DataError(
                f"{folder} has images in {name}/, which is no split, beside those of "
                f"{found[TRAIN]}/; move it into a split, or away"
            )
    return {split: folder / name for split, name in found.items()}


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError where all folders with images have names like splits, as `train2017`."""
    alike = [name for name in names if is_like_split(name)]
    rest = [name for name in names if name not in alike] if alike else []
    # A listing of its own: what is left out is counted once, where classes are read.
    if alike and not any(Listing().images(folder / name) for name in rest):
        raise DataError(
            f"{folder} has {'/, '.join(alike)}/, which are like splits and named as none; rename "
            "them to train, val or test, or, if they are classes, to other names"
        )


def read_splits(
    folders: Mapping[str, Path],
    class_names: Sequence[str],
    listing: Listing,
    form: ImageFiles | None = None,
) -> Stored:
    """List FOLDER/<class>/<image> of each split; a class's label is its place in `class_names`.

    Args:
        folders: by split.
        class_names: of all splits; validation and test may lack some.
        listing: of the data set.
        form: channels and size; if not given, three channels where any image has colour, else one,
            and the size of the first training image.

    Raises:
        DataError: where a class is unknown, or training or a whole split lacks images.
    """
    samples = {split: _samples(path, class_names, listing) for split, path in folders.items()}
    for label in sorted({*range(len(class_names))} - {*samples[TRAIN].values()}):
        path = folders[TRAIN] / class_names[label]
        raise DataError(f"class folder {path} has no image of {', '.join(SUFFIXES)}")
    listing.check_once(path for paths in samples.values() for path in paths)
    if form is None:
        form = open_files([path for split in SPLITS for path in samples.get(split, ())])
    splits = {
        split: Split(replace(form, paths=tuple(labels)), torch.tensor([*labels.values()]))
        for split, labels in samples.items()
    }
    return Stored(splits, tuple(class_names), listing.left_out)


def _samples(folder: Path, class_names: Sequence[str], listing: Listing) -> dict[str, int]:
    """Return the label of each image's path."""
    found = listing.folders(folder)
    if unknown := sorted(set(found) - set(class_names)):
        raise DataError(f"{folder} has unknown classes {unknown}, not of {class_names}")
    labels: dict[str, int] = {}
    for name in found:
        labels |= dict.fromkeys(listing.images(folder / name), class_names.index(name))
    if not labels:
        raise DataError(f"{folder} has no image in a class folder; remove it, or fill it")
    return labels


FOLDER = DataSet(
    title="folder:NAME, images of your own",
    terms="yours",
    get="yours",
    put="NAME/<class>/<image>, or NAME/{train,val,test}/<class>/<image>",
    splits="those that are there, in any case: train or training; val, valid, validation, dev "
    "or eval; test or testing; without a test, a fifth of training is drawn",
    read=read_folder,
)
