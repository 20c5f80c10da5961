"""Arrays of an .npz file, checked as what a stranger wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.memory import free_bytes
from trainer_service.training.datasets.values import (
    TRAIN,
    DataSet,
    Split,
    Stored,
    make_split,
    split_named,
)


def read_npz(name: Path) -> Stored:
    """Read `images`, `labels` and optionally `split` and `class_names` of NAME.npz.

    Raises:
        FileNotFoundError: where it is not there.
        DataError: naming the array and what it must be.
    """
    path = name.with_name(f"{name.name}.npz")
    arrays = read_arrays(path, ("images", "labels"))
    images = checked_images(path, arrays["images"])
    labels = checked_labels(path, arrays["labels"], count=len(images), classes=len(images))
    classes = int(labels.max()) + 1
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing or classes < 2:
        raise DataError(
            f"{path}: labels must be 0 to classes - 1, each in use, two or more; missing {missing}"
        )
    splits = _by_split(path, images, labels, arrays.get("split"))
    names = arrays.get("class_names", np.arange(classes))
    if names.shape != (classes,):
        raise DataError(f"{path}: class_names are {list(names.shape)}; one for each of {classes}")
    return Stored(splits, tuple(str(name) for name in names))


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return all arrays of an .npz file; raises DataError, also where one of `names` lacks."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        # np.load alone would also take a file of a single array, or a pickle.
        with zipfile.ZipFile(path) as members, np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in members.infolist())
            if size > free_bytes(torch.device("cpu")):
                raise DataError(f"{path} unpacks to {size // 2**20:,} MB, which are not free")
            read = {name: file[name] for name in file.files}
            # NumPy gives a member that is no array as its bytes; a file's name has a suffix.
            arrays = {name: a for name, a in read.items() if isinstance(a, np.ndarray)}
            if others := [name for name in read if name not in arrays and "." not in name]:
                raise DataError(f"{path}: `{others[0]}` is no array; write the file by np.savez")
    except DataError:
        raise
    except Exception as error:
        # A damaged zip raises most of what NumPy, zipfile and zlib can raise; all mean the same.
        raise DataError(f"{path} is no readable .npz file: {error}") from error
    for name in names:
        if name not in arrays:
            raise DataError(f"{path} has no array `{name}`; it has {sorted(arrays)}")
    return arrays


def checked_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Return uint8[n, h, w] or [n, h, w, c] as uint8[n, c, h, w]; raises DataError."""
    is_shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if images.dtype != np.uint8 or not is_shaped or 0 in images.shape:
        found = f"{images.dtype}{list(images.shape)}"
        raise DataError(f"{path}: images are {found}; uint8[n, h, w] or [n, h, w, 1 or 3]")
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def checked_labels(path: Path, labels: np.ndarray, *, count: int, classes: int) -> np.ndarray:
    """Return int64[count] in [0, classes); raises DataError."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels are {labels.dtype}{list(labels.shape)}; give int[{count}]")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path}: labels must be 0 to {classes - 1}; they are {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def _by_split(
    path: Path, images: np.ndarray, labels: np.ndarray, split: np.ndarray | None
) -> dict[str, Split]:
    if split is None:
        return {TRAIN: make_split(images, labels)}
    meant = {str(name): split_named(str(name)) for name in split.ravel().tolist()}
    if split.shape != labels.shape or None in meant.values() or TRAIN not in meant.values():
        raise DataError(
            f"{path}: split must name train, validation or test for each image; it has "
            f"{sorted(meant)}"
        )
    canonical = np.array([meant[str(name)] for name in split.tolist()])
    return {
        name: make_split(images[canonical == name], labels[canonical == name])
        for name in sorted(set(canonical.tolist()))
    }


NPZ = DataSet(
    title="npz:NAME, arrays of your own",
    terms="yours",
    get="yours",
    put="NAME.npz: images uint8[n, h, w] or [n, h, w, 3], labels int[n], optionally split "
    "(train, validation, test) and class_names",
    splits="those that are there; without a test, a fifth of training is drawn",
    read=read_npz,
)
