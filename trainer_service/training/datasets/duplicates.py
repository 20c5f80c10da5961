"""Images whose pixels are the same, all of them: within a split, and across splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from trainer_service.training.datasets.pixels import chunks
from trainer_service.training.datasets.values import SPLITS, TEST, TRAIN, VALIDATION, Pixels, Split


def fingerprints(images: Tensor) -> list[bytes]:
    """Return 16 bytes for each image of uint8[b, c, h, w]: the same only for the same pixels."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.numpy()]


def without_duplicates(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Take out of training what stands in validation or test, and out of validation what tests.

    Duplicates inside a split stay: they are how the set was published.
    """
    found = {name: _all_fingerprints(splits[name].images) for name in SPLITS}
    tested = set(found[TEST])
    held_out = tested | set(found[VALIDATION])
    return {
        TRAIN: _without(splits[TRAIN], found[TRAIN], held_out),
        VALIDATION: _without(splits[VALIDATION], found[VALIDATION], tested),
        TEST: splits[TEST],
    }


def _all_fingerprints(images: Pixels) -> list[bytes]:
    return [fingerprint for chunk in chunks(images) for fingerprint in fingerprints(chunk)]


def _without(split: Split, found: list[bytes], others: set[bytes]) -> Split:
    return split.take(np.array([i for i, f in enumerate(found) if f not in others], dtype=np.int64))
