"""Data of problems: images of stored data sets, or drawn around prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer_service.pretraining.distribution import DataTable, ProblemDraw, StackDraw
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.pixels import read_all, with_size

PROTOTYPES = "prototypes"
"""The name, in a problems file, of images that are drawn around prototypes."""
VALIDATION_SHARE = 0.25
"""Validation images for each training image, within the bounds below."""
VALIDATION = (40, 300)
TEST = 300
"""Test images at the most, whose labels are never wrong."""
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class ProblemData:
    """Images, uint8[n, c, h, w], and labels, int64[n], of one problem."""

    classes: int
    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def problem_data(
    table: DataTable, root: Path, stack: StackDraw, problem: ProblemDraw
) -> ProblemData:
    """Return the data of a problem: the same for the same draw.

    Where a data set has fewer images than the draw asks for, the problem has fewer.

    Raises:
        DataError: the data set is missing or invalid, or has too few classes.
    """
    rng = np.random.default_rng([problem.seed, 1])
    size = problem.training_size
    validation = int(np.clip(round(VALIDATION_SHARE * size), *VALIDATION))
    if table.dataset == PROTOTYPES:
        images, labels = _around_prototypes(rng, stack, size + validation + TEST)
    else:
        images, labels = _stored(rng, table, root, stack)
    test = min(TEST, len(labels) // 3)
    size = min(size, int((len(labels) - test) * size / (size + validation)))
    validation = min(validation, len(labels) - test - size)
    ends = (test, test + size, test + size + validation)
    classes = int(labels.max()) + 1
    noisy = _mislabelled(rng, labels, problem.label_noise, classes)
    return ProblemData(
        classes=classes,
        images=images[ends[0] : ends[1]],
        labels=noisy[ends[0] : ends[1]],
        validation_images=images[ends[1] : ends[2]],
        validation_labels=(noisy if problem.is_validation_wrong else labels)[ends[1] : ends[2]],
        test_images=images[: ends[0]],
        test_labels=labels[: ends[0]],
    )


@lru_cache(maxsize=16)
def _pool(dataset: str, root: Path, size: int, is_grey: bool) -> tuple[Tensor, Tensor, list[str]]:
    """Return all images of a data set, its splits joined, with labels and class names."""
    stored = read_stored(dataset, root)
    splits = [read_all(with_size(split, size)) for split in stored.splits.values()]
    images = torch.cat([s.images for s in splits if isinstance(s.images, Tensor)])
    if images.shape[1] == 1 and not is_grey:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and is_grey:
        images = (images.float() * _GREY).sum(1, keepdim=True).round().to(torch.uint8)
    return images, torch.cat([s.labels for s in splits]), list(stored.class_names)


def _stored(
    rng: np.random.Generator, table: DataTable, root: Path, stack: StackDraw
) -> tuple[Tensor, Tensor]:
    """Return the images of classes that are drawn, in a drawn order."""
    images, labels, names = _pool(table.dataset, root, stack.size, stack.is_grey)
    allowed = [place for place, name in enumerate(names) if name not in table.without]
    count = min(stack.classes, len(allowed))
    kept = torch.from_numpy(rng.choice(allowed, count, replace=False))
    order = torch.from_numpy(rng.permutation(len(labels)))
    order = order[torch.isin(labels[order], kept)]
    renumbered = torch.full((len(names),), -1)
    renumbered[kept] = torch.arange(count)
    return images[order], renumbered[labels[order]]


def _around_prototypes(
    rng: np.random.Generator, stack: StackDraw, count: int
) -> tuple[Tensor, Tensor]:
    """Return images that are drawn around smooth prototypes, some for each class.

    Each image is one of its class's prototypes, moved and scaled a little, with another contrast,
    under smooth and independent noise. Problems differ in how far apart prototypes lie, in how much
    images vary and in how many prototypes a class has: from as easy as digits to hopeless.
    """
    classes, size, channels = stack.classes, stack.size, 1 if stack.is_grey else 3
    modes = int(rng.integers(1, 5))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    detail = int(rng.integers(3, 8))
    shared = _smooth(generator, 1, channels, detail, size)
    own = _smooth(generator, classes * modes, channels, detail, size)
    likeness = float(rng.uniform(0.0, 0.85))
    prototypes = likeness * shared + (1 - likeness**2) ** 0.5 * own
    labels = torch.from_numpy(rng.integers(0, classes, count))
    mode = torch.from_numpy(rng.integers(0, modes, count))
    images = _moved(generator, prototypes[labels * modes + mode], far=float(rng.uniform(0, 0.2)))
    contrast = torch.rand(count, 1, 1, 1, generator=generator) * float(rng.uniform(0, 1)) + 0.5
    smooth = float(rng.uniform(0, 1)) * _smooth(generator, count, channels, detail, size)
    rough = float(rng.uniform(0, 1)) * torch.randn(images.shape, generator=generator)
    pixels = 128 + 40 * (contrast * images + smooth + rough)
    return pixels.round().clamp(0, 255).to(torch.uint8), labels


def _smooth(
    generator: torch.Generator, count: int, channels: int, detail: int, size: int
) -> Tensor:
    """Return random fields of deviation 1: coarse noise of `detail` pixels each way, enlarged."""
    coarse = torch.randn(count, channels, detail, detail, generator=generator)
    fields = nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return fields / fields.std(dim=(1, 2, 3), keepdim=True)


def _moved(generator: torch.Generator, images: Tensor, *, far: float) -> Tensor:
    """Shift and scale each image, by up to `far` of its side."""
    count = len(images)
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * 2 * far
    scale = 1 + (2 * torch.rand(count, generator=generator) - 1) * far
    turns = torch.zeros(count, 2, 3)
    turns[:, 0, 0] = turns[:, 1, 1] = scale
    turns[:, :, 2] = shift
    grid = nn.functional.affine_grid(turns, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _mislabelled(rng: np.random.Generator, labels: Tensor, share: float, classes: int) -> Tensor:
    wrong = torch.from_numpy(rng.random(len(labels)) < share)
    other = (labels + torch.from_numpy(rng.integers(1, classes, len(labels)))) % classes
    return torch.where(wrong, other, labels)
