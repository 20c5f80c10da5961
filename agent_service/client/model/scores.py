"""Scores of batches: what is kept of each, without waiting for the device, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from agent_service.scores import macro_f1

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
