"""Macro F1, computed on the predictions' device.

For our trainings and users'; needs only torch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def macro_f1(predictions: Tensor, labels: Tensor, *, classes: int) -> Tensor:
    """Return the macro F1 of each batch, in [0, 1].

    Classes absent from both a batch's labels and its predictions do not count in its mean, as in
    scikit-learn's default label set; a class with neither precision nor recall has F1 = 0.

    Args:
        predictions: int64[..., B], classes in [0, classes).
        labels: int64[..., B]; those outside [0, classes) are ignored, with their predictions.
        classes: number of classes.

    Returns:
        float64[...], one score a batch; NaN where all its labels are ignored.
    """
    return macro_f1_of(class_counts(predictions, labels, classes=classes))


def class_counts(predictions: Tensor, labels: Tensor, *, classes: int) -> Tensor:
    """Return the counts for macro F1, which can be added up: float64[2, ..., classes].

    The first row counts correct predictions per class, the second labels plus predictions. A
    confusion matrix for a language model's 128,000 words would take 131 GB.

    Args:
        predictions: as for `macro_f1`.
        labels: likewise.
        classes: likewise.
    """
    # Ignored samples are counted in an extra class, which is dropped.
    labels = labels.clamp(-1, classes) % (classes + 1)
    predictions = predictions.where(labels < classes, classes)
    hits = (predictions == labels).to(torch.float64)
    empty = hits.new_zeros((2, *labels.shape[:-1], classes + 1))
    empty[0].scatter_add_(-1, labels, hits)
    # 2 TP + FP + FN, since TP + FP are the predictions of a class and TP + FN its labels.
    either = torch.cat([labels, predictions], dim=-1)
    empty[1].scatter_add_(-1, either, torch.ones_like(either, dtype=torch.float64))
    return empty[..., :classes]


def macro_f1_of(counts: Tensor) -> Tensor:
    """Return macro F1, float64[...], from counts, float64[2, ..., classes]."""
    hits, support = counts.unbind()
    f1 = 2.0 * hits / support.clamp(min=1.0)
    return f1.sum(-1) / (support > 0).sum(-1)
