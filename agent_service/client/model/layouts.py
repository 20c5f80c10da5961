"""Finds the class axis of logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from torch import Tensor

from agent_service.domain.errors import invalid

warn_once = cache(logging.getLogger("agent_service.client").warning)
"""Logs a warning about a script's batches; each message only once."""


class Layout:
    """The class axis of a run's logits, if they have three dimensions or more."""

    def __init__(self) -> None:
        """Start before the first batch."""
        self._is_last: bool | None = None

    def learn(self, axes: Sequence[int], logits: Tensor) -> None:
        """Remember the axis if the batch's shapes allow only one."""
        if len(axes) == 1 and logits.ndim > 2:
            self._is_last = axes[0] > 1

    def pick(self, predictions: Tensor) -> Tensor:
        """Select the predictions along the run's axis, from int64[axes, b, ...].

        If no batch has determined the axis, it is the last for sequences, as in language models,
        and the second for images.
        """
        is_last = predictions.ndim == 3 if self._is_last is None else self._is_last
        if len(predictions) > 1 and self._is_last is None:
            shape = ", ".join(["b", *(str(predictions.shape[-1]) for _ in predictions.shape[1:])])
            warn_once(
                f"logits [{shape}] may have their classes in the second dimension or in the last; "
                f"they are scored by the {'last' if is_last else 'second'}; to be sure, give "
                "logits.flatten(0, -2) and labels.flatten(), with the classes last"
            )
        return predictions[-1 if is_last else 0]


def axes_of_classes(logits: Tensor, labels: Tensor) -> list[int]:
    """Return the possible class axes of float[b, classes, ...] or [b, ..., classes].

    The labels' shape decides; they may have a dimension of 1 there. Both axes fit if all dimensions
    but the first have the same size.
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
            "logits", f"{[*logits.shape]} has no classes; for a single logit give score='binary-f1'"
        )
    wanted = [logits.shape[0], *logits.shape[2:]]
    raise invalid(
        "labels",
        f"{labels.dtype}{[*labels.shape]} are not classes, int{wanted}; for multilabel targets "
        "give score='multilabel-f1', for numbers score='r2', for mixed labels their argmax(1)",
    )
