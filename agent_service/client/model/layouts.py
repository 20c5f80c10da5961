"""Where logits have their classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from torch import Tensor

from agent_service.domain.errors import invalid

warn_once = cache(logging.getLogger("agent_service.client").warning)
"""Say why something of a script's batches is not as it may expect; each message once."""


class Layout:
    """Where a run's logits have their classes, if they have three dimensions or more."""

    def __init__(self) -> None:
        """Begin with no batch."""
        self._is_last: bool | None = None

    def learn(self, axes: Sequence[int], logits: Tensor) -> None:
        """Keep where they are if the batch's shapes allow one axis only."""
        if len(axes) == 1 and logits.ndim > 2:
            self._is_last = axes[0] > 1

    def pick(self, predictions: Tensor) -> Tensor:
        """Return of a batch's predictions, int64[axes, b, ...], those along the run's axis.

        Where no batch has shown it, it is the last of sequences, as of language models, and the
        second of images.
        """
        is_last = predictions.ndim == 3 if self._is_last is None else self._is_last
        if len(predictions) > 1 and self._is_last is None:
            shape = ", ".join(["b", *(str(predictions.shape[-1]) for _ in predictions.shape[1:])])
            warn_once(
                f"logits [{shape}] may have their classes in the second dimension or in the last, "
                f"which is scored as the {'last' if is_last else 'second'}; to be sure, give "
                "logits.flatten(0, -2) and labels.flatten(), with the classes last"
            )
        return predictions[-1 if is_last else 0]


def axes_of_classes(logits: Tensor, labels: Tensor) -> list[int]:
    """Return where the classes may be: float[b, classes, ...], or [b, ..., classes] as of words.

    The labels' shape decides; they may have a dimension of 1 there. Both fit where all dimensions
    but the first are of one size.
    """
    axes = []
    for axis in sorted({1, logits.ndim - 1}) if logits.ndim > 1 else ():
        before, after = logits.shape[:axis], logits.shape[axis + 1 :]
        fits = labels.shape in ((*before, *after), (*before, 1, *after))
        if fits and logits.shape[axis] > 1 and not labels.is_floating_point():
            axes.append(axis)
    if axes:
        return axes
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise invalid(
            "logits", f"{[*logits.shape]} has no classes; of one logit give score='binary-f1'"
        )
    wanted = [logits.shape[0], *logits.shape[2:]]
    raise invalid(
        "labels",
        f"{labels.dtype}{[*labels.shape]} are no classes, int{wanted}; of several labels give "
        "score='multilabel-f1', of numbers score='r2'; of mixed labels tell their argmax(1)",
    )
