"""What a training ends with: its scores, and two sets of weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Which(StrEnum):
    """Which weights of a training."""

    BEST = "best"
    """Those of the epoch with the best validation score."""
    LAST = "last"
    """Those that it ended with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalScores:
    """What a training ended with: macro F1 unless called accuracy, all in [0, 1]."""

    test_score_best: float
    """With the weights of the epoch with the best validation score."""
    test_score_last: float
    """With the last weights."""
    test_accuracy_best: float
    test_accuracy_last: float
    validation_score_best: float
    validation_score_last: float
    best_epoch: int
    """From 1; a last epoch that was cut counts as one."""
