"""Scores of batches: what is kept of each, without waiting for the device, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from agent_service.domain.errors import AgentError, invalid
from agent_service.scores import macro_f1

Function = Callable[[Tensor, Tensor], Any]
"""Of logits and labels of a batch: a number or scalar tensor in [0, 1], larger is better."""
Score = str | Function
"""A name of `NAMED` or "macro-f1", a metric of torchmetrics, or a function."""


class Scoring(Protocol):
    """How batches are scored."""

    def keep(self, logits: Tensor, labels: Tensor) -> Any:
        """Return what of a batch is needed for its score."""
        ...

    def mean(self, kept: Sequence[Any]) -> float:
        """Return the mean score of batches."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A metric of torchmetrics, as far as it is used here."""

    higher_is_better: bool | None

    def clone(self) -> Any:
        """Return a metric with a state of its own."""
        ...

    def reset(self) -> None:
        """Forget all batches."""
        ...


def scoring_of(score: Score | None) -> Scoring:
    """Return how batches are scored by what a script gives, macro F1 for None.

    Raises:
        InvalidArgument: an unknown name, or a metric that is lower for better.
        AgentError: a name that needs torchmetrics, which is not installed.
    """
    if score is None:
        return MacroF1()
    if isinstance(score, str):  # asked first: with a metric, == makes another metric
        return MacroF1() if score == "macro-f1" else LateScore(_named(score))
    return LateScore(_of_metric(score)) if isinstance(score, Metric) else OwnScore(score)


class MacroF1:
    """Macro F1 of each batch, the default."""

    def keep(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return predictions, labels and the number of classes; logits float[b, classes, ...]."""
        if logits.ndim < 2 or logits.shape[1] < 2:
            raise invalid(
                "logits", f"{[*logits.shape]} has no classes; of one logit give score='binary-f1'"
            )
        predictions = logits.argmax(1)
        if labels.shape != predictions.shape or labels.is_floating_point():
            raise invalid(
                "labels",
                f"{labels.dtype}{[*labels.shape]} are no classes, int{[*predictions.shape]}; "
                "of several labels give score='multilabel-f1', of numbers score='r2'",
            )
        return predictions, _own(labels), logits.shape[1]

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
    """A function of the script, called at each step; it waits for the device only if it must."""

    def __init__(self, score: Function) -> None:
        """Score each batch by `score`."""
        self._score = score

    def keep(self, logits: Tensor, labels: Tensor) -> Any:
        """Return the batch's score."""
        return self._score(logits.detach(), labels)

    def mean(self, kept: Sequence[Any]) -> float:
        """See the protocol."""
        return sum(map(_number, kept)) / len(kept)


class LateScore:
    """What waits for the device, as torchmetrics does: called when the chunk is reported."""

    def __init__(self, score: Function) -> None:
        """Score each batch by `score`."""
        self._score = score

    def keep(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, which stay on their device until the chunk is reported."""
        return _own(logits.detach()), _own(labels)

    def mean(self, kept: Sequence[tuple[Tensor, Tensor]]) -> float:
        """See the protocol."""
        return sum(_number(self._score(*batch)) for batch in kept) / len(kept)


def _own(tensor: Tensor) -> Tensor:
    """Return a copy: a CUDA graph, or a loader with one buffer, overwrites what it gave."""
    return tensor.clone()


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError) as error:
        raise invalid(
            "score", f"gave {score!r} for a batch; let it give one number (average='macro')"
        ) from error


def _of_metric(metric: Metric) -> Function:
    """Return a metric as a function of one batch; the script's own keeps its state."""
    if metric.higher_is_better is False:
        raise invalid(
            "score", f"{type(metric).__name__} is lower for better; give one in [0, 1], larger"
        )
    own = metric.clone()

    def score(logits: Tensor, labels: Tensor) -> Any:
        own.reset()
        return own.to(logits.device)(logits, labels)

    return score


def _binary_f1(logits: Tensor, labels: Tensor) -> Any:
    from torchmetrics.functional.classification import binary_f1_score

    return binary_f1_score(logits.flatten(), labels.flatten().long())


def _multilabel_f1(logits: Tensor, labels: Tensor) -> Any:
    from torchmetrics.functional.classification import multilabel_f1_score

    return multilabel_f1_score(logits, labels.long(), num_labels=logits.shape[1])


def _r2(predictions: Tensor, targets: Tensor) -> Any:
    from torchmetrics.functional import r2_score

    if predictions.numel() == targets.numel():
        predictions = predictions.reshape(targets.shape)  # [b, 1] and [b]
    return r2_score(predictions.float(), targets.float()).clamp(min=0.0)


NAMED: dict[str, Function] = {
    "binary-f1": _binary_f1,
    "multilabel-f1": _multilabel_f1,
    "r2": _r2,
}
"""F1 of one logit or probability a sample; macro F1 of float[b, labels]; R2 of a regression, where
what is worse than the mean of the batch's targets counts as 0."""


def _named(name: str) -> Function:
    if name not in NAMED:
        raise invalid("score", f"{name!r} is none of {['macro-f1', *NAMED]}")
    if find_spec("torchmetrics") is None:
        raise AgentError(
            f"score={name!r} needs torchmetrics: pip install "
            "'reinforced-regularization[torchmetrics]'"
        )
    import_module("torchmetrics.functional")  # takes a second or two: not in the first report
    return NAMED[name]
