"""Scores, computed where the predictions are: nothing is copied off the device.

For trainings, ours and others'; knows torch and no service.
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
        labels: int64[..., B].
        classes: number of classes.

    Returns:
        float64[...], one score a batch.
    """
    shape = (*predictions.shape[:-1], classes)
    hits = (predictions == labels).to(torch.float64)

    def count(places: Tensor, weights: Tensor) -> Tensor:
        empty = torch.zeros(shape, dtype=torch.float64, device=places.device)
        return empty.scatter_add_(-1, places, weights)

    true_positives = count(labels, hits)
    # 2 TP + FP + FN, since TP + FP are the predictions of a class and TP + FN its labels.
    support = count(labels, torch.ones_like(hits)) + count(predictions, torch.ones_like(hits))
    f1 = 2.0 * true_positives / support.clamp(min=1.0)
    return f1.sum(-1) / (support > 0).sum(-1)
