"""Scores of batches: what is kept of each, without waiting for the device, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Any]
"""Of logits and labels of a batch: a number or scalar tensor in [0, 1], larger is better."""


class Scoring(Protocol):
    """How batches are scored."""

    def keep(self, logits: Tensor, labels: Tensor) -> Any:
        """Return what of a batch is needed for its score."""
        ...

    def mean(self, kept: Sequence[Any]) -> float:
        """Return the mean score of batches."""
        ...


def macro_f1(predictions: Tensor, labels: Tensor, *, classes: int) -> Tensor:
    """Return the macro F1 of each batch, in [0, 1]; waits for no device.

    Classes absent from both a batch's labels and its predictions do not count in its mean, as in
    scikit-learn's default label set; a class with neither precision nor recall has F1 = 0.

    Args:
        predictions: int64[..., b], classes in [0, classes).
        labels: int64[..., b].
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


class MacroF1:
    """Macro F1 of each batch, the default."""

    def keep(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return predictions, labels and the number of classes; logits float[b, classes, ...]."""
        return logits.argmax(1), labels, logits.shape[1]

    def mean(self, kept: Sequence[tuple[Tensor, Tensor, int]]) -> float:
        """See the protocol; batches of one size at once, since each by itself costs as much."""
        by_size: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for predictions, labels, classes in kept:
            entry = (predictions.flatten(), labels.flatten())
            by_size.setdefault((labels.numel(), classes), []).append(entry)
        scores = [
            macro_f1(*map(torch.stack, zip(*batches, strict=True)), classes=classes)
            for (_size, classes), batches in by_size.items()
        ]
        return float(torch.cat(scores).mean())


class OwnScore:
    """A score that the script gives, such as one of torchmetrics."""

    def __init__(self, score: Score) -> None:
        """Score each batch by `score`."""
        self._score = score

    def keep(self, logits: Tensor, labels: Tensor) -> Any:
        """Return the batch's score."""
        return self._score(logits.detach(), labels)

    def mean(self, kept: Sequence[Any]) -> float:
        """See the protocol."""
        return sum(float(score) for score in kept) / len(kept)
