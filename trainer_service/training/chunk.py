"""Results of a chunk, whose propagations are those of Eq. 2, and of a whole training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ConfigDict


def chunk_of(k: int, *, chunk_size: int) -> int:
    """Return the chunk t, from 1, that holds the k-th propagation, from 1: ceil(k / N) (Eq. 2)."""
    return -(-k // chunk_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Results of the training and validation of one chunk."""

    # Its validation loss may be infinite, or none: JSON's own null would not be read again.
    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    index: int
    """t, from 1."""
    losses: tuple[float, ...]
    """The N training losses in order: the state S_t (Eq. 3)."""
    training_score: float
    """MTF: mean macro F1 of the N training batches, in train mode (Eq. 9)."""
    validation_score: float
    """MVF: mean macro F1 of the m validation batches (Eq. 10)."""
    validation_loss: float
    """Mean loss of the m validation batches."""
    values: Mapping[str, float]
    """Values in force, by hyperparameter; DNI's mean strength as `noise-strength`."""
    epochs: float
    """Passes over the training split so far."""
    training_images: int
    """Images that were trained on, repeats counted."""
    validation_images: int
    """Images in the m validation batches, repeats counted."""
    seconds: float
    """Time of its training and validation."""


class Which(StrEnum):
    """A choice of a training's weights."""

    BEST = "best"
    """Those of the epoch with the best validation score."""
    LAST = "last"
    """Those that it ended with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalScores:
    """Final scores of a training: macro F1 unless called accuracy, all in [0, 1]."""

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
