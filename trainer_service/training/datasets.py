"""Images to train on: read, checked, split by class, and made harder where a study asks for it.

Nothing is ever replaced by made-up data: what is not there is an error that says where to put it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from agent_service.domain.errors import AgentError
from trainer_service.training.spec import TrainingSpec

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Of all images, and of those then left for training, where a data set has no such split."""
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""Names of splits in folders and arrays."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}


class DataError(AgentError):
    """A data set is not there or not as it should be; the message names the file and the fix."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images and their labels."""

    images: Tensor
    """uint8[n, c, h, w]."""
    labels: Tensor
    """int64[n], in [0, classes)."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Images:
    """A data set in its three splits."""

    training: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]


Arrays = tuple[np.ndarray, np.ndarray]
"""uint8[n, c, h, w] and int64[n]."""


def load_images(spec: TrainingSpec, root: Path) -> Images:
    """Read the data set of `spec`, split it, take its subset and mislabel its share.

    All is drawn by `spec.data_seed`, so it is the same for every method of a study.

    Args:
        spec: names the data set.
        root: the data folder.

    Raises:
        DataError: where it is not there, or wrong.
    """
    kind, _, name = spec.dataset.partition(":")
    if kind == "digits":
        parts, class_names = _digits()
    elif kind == "folder":
        parts, class_names = _read_folder(root / name)
    else:
        parts, class_names = _read_npz(root / f"{name}.npz")
    parts = _with_all_splits(parts, spec.data_seed, spec.dataset)
    training = _subset(parts["train"], spec)
    training = _mislabelled(training, spec, len(class_names))
    return Images(
        training=_split(training),
        validation=_split(parts["validation"]),
        test=_split(parts["test"]),
        class_names=class_names,
    )


def _split(arrays: Arrays) -> Split:
    images, labels = arrays
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.copy()))


def _digits() -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Return scikit-learn's 1,797 scans of handwritten digits, 8x8 with 17 levels of grey."""
    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return {"train": (images, bunch.target.astype(np.int64))}, tuple("0123456789")


# Folders


def _read_folder(folder: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Read FOLDER/<class>/<image>, or FOLDER/<split>/<class>/<image>."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; put images there, one folder a class")
    names = [path.name for path in _folders(folder)]
    if "train" in names:
        splits = {SPLITS[name]: folder / name for name in names if name in SPLITS}
    else:
        splits = {"train": folder}
    class_names = tuple(path.name for path in _folders(splits["train"]))
    if len(class_names) < 2:
        raise DataError(f"{splits['train']} has {len(class_names)} class folders; two are needed")
    parts = {split: _read_classes(path, class_names) for split, path in splits.items()}
    shapes = {images.shape[1:] for images, _labels in parts.values()}
    if len(shapes) > 1:
        raise DataError(f"{folder}: the splits have images of different sizes: {sorted(shapes)}")
    return parts, class_names


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _read_classes(folder: Path, class_names: Sequence[str]) -> Arrays:
    images: list[np.ndarray] = []
    labels: list[int] = []
    found = {path.name for path in _folders(folder)}
    if unknown := found - set(class_names):
        raise DataError(f"{folder} has classes that the training split lacks: {sorted(unknown)}")
    for label, name in enumerate(class_names):
        paths = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(f"class folder {folder / name} has no image of {sorted(SUFFIXES)}")
        for path in paths:
            images.append(_read_image(path))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise DataError(
                    f"{path} is {images[-1].shape}, others are {images[0].shape} (channels, "
                    "height, width); bring all to one size"
                )
    return np.stack(images), np.array(labels, dtype=np.int64)


def _read_image(path: Path) -> np.ndarray:
    """Return uint8[c, h, w]: one channel for grey images, three for all others."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is no readable image; remove or replace it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# Arrays


def _read_npz(path: Path) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Read `images`, `labels` and optionally `split` of an .npz file."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; put the arrays images and labels there")
    arrays = _read_arrays(path)
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataError(f"{path} has no array `{name}`; it has {sorted(arrays)}")
    images, labels = _checked_images(path, arrays["images"]), arrays["labels"]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels are {labels.dtype}{labels.shape}; int[{len(images)}]")
    classes = int(labels.max(initial=-1)) + 1
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if labels.min(initial=0) < 0 or missing or classes < 2:
        raise DataError(
            f"{path}: labels must be 0 to classes - 1, each in use, two or more; missing {missing}"
        )
    parts = _by_split(path, images, labels.astype(np.int64), arrays.get("split"))
    return parts, tuple(str(label) for label in range(classes))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # np.load alone would also take a file of a single array, or a pickle.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        # A damaged zip raises most of what NumPy, zipfile and zlib can raise; all mean the same.
        raise DataError(f"{path} is no readable .npz file: {error}") from error


def _checked_images(path: Path, images: np.ndarray) -> np.ndarray:
    is_shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if images.dtype != np.uint8 or not is_shaped:
        found = f"{images.dtype}{list(images.shape)}"
        raise DataError(f"{path}: images are {found}; uint8[n, h, w] or [n, h, w, 1 or 3]")
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _by_split(
    path: Path, images: np.ndarray, labels: np.ndarray, split: np.ndarray | None
) -> dict[str, Arrays]:
    if split is None:
        return {"train": (images, labels)}
    names = {str(name) for name in split.ravel().tolist()}
    if split.shape != labels.shape or not names <= set(SPLITS) or "train" not in names:
        raise DataError(
            f"{path}: split must name train, validation or test for each image; it has "
            f"{sorted(names)}"
        )
    canonical = np.array([SPLITS[str(name)] for name in split.tolist()])
    return {
        name: (images[canonical == name], labels[canonical == name])
        for name in sorted(set(canonical.tolist()))
    }


# Draws


def _with_all_splits(parts: dict[str, Arrays], seed: int, dataset: str) -> dict[str, Arrays]:
    """Draw the splits that are not there from the training split, by class."""
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if name not in parts:
            rest, drawn = _stratified(parts["train"], share, seed, dataset)
            parts = parts | {"train": rest, name: drawn}
    return parts


def _stratified(
    arrays: Arrays, second: float | int, seed: int, dataset: str
) -> tuple[Arrays, Arrays]:
    images, labels = arrays
    try:
        first, other = train_test_split(
            np.arange(len(labels)), test_size=second, stratify=labels, random_state=seed % 2**32
        )
    except ValueError as error:
        raise DataError(f"{dataset} cannot be split by class: {error}") from error
    return (images[first], labels[first]), (images[other], labels[other])


def _subset(arrays: Arrays, spec: TrainingSpec) -> Arrays:
    size = spec.training_size
    if size is None or size == len(arrays[1]):
        return arrays
    if size > len(arrays[1]):
        raise DataError(f"training_size {size}: {spec.dataset} has {len(arrays[1])} to train on")
    _rest, drawn = _stratified(arrays, size, spec.data_seed, spec.dataset)
    return drawn


def _mislabelled(arrays: Arrays, spec: TrainingSpec, classes: int) -> Arrays:
    """Replace an exact share of the labels by another class, uniformly."""
    images, labels = arrays
    draws = np.random.default_rng([spec.data_seed, 1])
    places = draws.permutation(len(labels))[: round(spec.label_noise * len(labels))]
    labels = labels.copy()
    labels[places] = (labels[places] + draws.integers(1, classes, size=len(places))) % classes
    return images, labels
