"""All images of a split, a few at a time: what must not be in memory as a whole, or as floats."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.values import SPLITS, TEST, TRAIN, VALIDATION, Pixels, Split
from trainer_service.training.vision import functional

CHUNK = 64
"""Images that are read at once."""


def chunks(images: Pixels) -> Iterator[Tensor]:
    """Yield all images in order as uint8[b, c, h, w].

    Files are decoded ahead, in as many threads as torch may use in this process.

    Raises:
        DataError: naming a file that cannot be read.
    """
    if isinstance(images, Tensor):
        yield from torch.split(images, CHUNK)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for places in torch.split(torch.arange(len(images)), CHUNK):
            waiting.append(pool.submit(images.__getitem__, places))
            if len(waiting) > 2 * threads:  # so that no more than these wait in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def pixel_statistics(images: Pixels) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of all pixels by channel, scaled to [0, 1].

    A pixel has one of 256 levels, so counting them is exact, whatever the number of images.

    Returns:
        Two tensors float32[1, c, 1, 1].
    """
    channels = images.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in chunks(images):
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255.0
    total = counts.sum(dim=1)
    mean = (counts * levels).sum(dim=1) / total
    spread = (counts * (levels - mean[:, None]) ** 2).sum(dim=1) / (total - 1)
    return mean.float().view(1, -1, 1, 1), spread.sqrt().float().view(1, -1, 1, 1)


def with_size(split: Split, size: int) -> Split:
    """Return a split whose images are `size` x `size` pixels; files are resized when read."""
    images = split.images
    if isinstance(images, ImageFiles):
        return Split(replace(images, size=(size, size), is_resized=True), split.labels)
    if images.shape[2:] == (size, size):
        return split
    resized = [functional.resize(chunk, [size, size], antialias=True) for chunk in chunks(images)]
    return Split(torch.cat(resized), split.labels)


def with_sizes(splits: Mapping[str, Split], size: int | None) -> Mapping[str, Split]:
    """Return splits with images of `size` x `size` pixels; of their own size where it is None."""
    if size is None:
        return splits
    return {name: with_size(split, size) for name, split in splits.items()}


def read_all(split: Split) -> Split:
    """Return a split whose images are in memory."""
    if isinstance(split.images, Tensor):
        return split
    images = torch.empty(split.images.shape, dtype=torch.uint8)
    place = 0
    for chunk in chunks(split.images):
        images[place : place + len(chunk)] = chunk
        place += len(chunk)
    return Split(images, split.labels)


def fingerprints(images: Tensor) -> list[bytes]:
    """Return 16 bytes for each image of uint8[b, c, h, w]: the same only for the same pixels."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.numpy()]


def without_duplicates(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Take out of training what stands in validation or test, and out of validation what tests.

    Duplicates inside a split stay: they are how the set was published.
    """
    found = {
        name: [one for chunk in chunks(splits[name].images) for one in fingerprints(chunk)]
        for name in SPLITS
    }
    tested = set(found[TEST])
    held_out = tested | set(found[VALIDATION])
    return {
        TRAIN: _without(splits[TRAIN], found[TRAIN], held_out),
        VALIDATION: _without(splits[VALIDATION], found[VALIDATION], tested),
        TEST: splits[TEST],
    }


def _without(split: Split, found: list[bytes], others: set[bytes]) -> Split:
    return split.take(np.array([i for i, f in enumerate(found) if f not in others], dtype=np.int64))
