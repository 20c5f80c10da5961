"""scikit-learn's scans of handwritten digits: there without a file, for a first try."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from trainer_service.training.datasets.values import TRAIN, DataSet, Stored, make_split


def read_digits(_folder: Path) -> Stored:
    """Return 1,797 grey images of 8x8 pixels with 17 levels of grey, without splits."""
    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return Stored({TRAIN: make_split(images, bunch.target)}, tuple("0123456789"))


DIGITS = DataSet(
    title="1,797 scans of handwritten digits, 8x8, grey, 10 classes (UCI, in scikit-learn)",
    terms="CC BY 4.0",
    get="comes with scikit-learn",
    put="nothing",
    splits="none: a fifth is drawn for the test",
    read=read_digits,
)
