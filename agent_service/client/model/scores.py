"""Scores of a chunk: batches are added one by one, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from agent_service.client.model.layouts import Layout, axes_of_classes, warn_once
from agent_service.domain.errors import invalid
from agent_service.scores import class_counts, macro_f1, macro_f1_of

Function = Callable[[Tensor, Tensor], Any]
"""Of logits and labels of a batch: a number or scalar tensor in [0, 1], larger is better."""
Score = str | Function
"""A name of `NAMED` or of `metrics.NAMED`, a metric of torchmetrics, or a function."""
Batch = tuple[Tensor, Tensor]

LIMIT = 8 * 2**20
"""Bytes of batches that wait to be scored. Beyond, they are scored at once, though that may wait
for the device: the logits of a language model's batches would not fit."""


class Tally(Protocol):
    """The score of one chunk, of its training or of its validation."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        ...

    def value(self) -> float:
        """Return the score of all batches that were added; waits for the device."""
        ...


Scoring = Callable[[], Tally]
"""Begins the score of a chunk; made once a run."""


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
    """Return how chunks are scored by what a script gives, macro F1 of all samples for None.

    Raises:
        InvalidArgument: an unknown name, or a metric that is lower for better.
        AgentError: a name that needs torchmetrics, which is not installed.
    """
    if score is None:
        score = "macro-f1"
    if isinstance(score, str):  # asked first: with a metric, == makes another metric
        return partial(NAMED[score], Layout()) if score in NAMED else _of_torchmetrics(score)
    if not isinstance(score, Metric):
        return partial(FunctionScore, score)
    if score.higher_is_better is False:
        raise invalid(
            "score", f"{type(score).__name__} is lower for better; give one in [0, 1], larger"
        )
    return partial(MetricScore, lambda _logits: score.clone())


def _of_torchmetrics(name: str) -> Scoring:
    from agent_service.client.model import metrics

    if name not in metrics.NAMED:
        raise invalid("score", f"{name!r} is none of {[*NAMED, *metrics.NAMED]}")
    metrics.check_installed(name)
    return partial(MetricScore, *metrics.NAMED[name])


class Waiting:
    """Batches that are scored together, later.

    Each is kept as a copy: a CUDA graph, or a loader with one buffer, overwrites what it gave.
    """

    def __init__(self) -> None:
        """Begin with no batch."""
        self._batches: list[Batch] = []
        self._bytes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch, and score those that wait where they are many."""
        batch = self._kept(logits, labels)
        self._batches.append(batch)
        self._bytes += sum(part.nbytes for part in batch)
        if self._bytes > LIMIT:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._score(self._batches)
            self._batches, self._bytes = [], 0

    def _kept(self, logits: Tensor, labels: Tensor) -> Batch:
        """Return what the score of a batch needs, as copies."""
        raise NotImplementedError

    def _score(self, batches: list[Batch]) -> None:
        """Score these."""
        raise NotImplementedError


class MacroF1(Waiting):
    """Macro F1 of all samples of the chunk, the default: the batch's size does not matter.

    Labels outside [0, classes) are ignored, as the loss must have done: -100, -1, 255.
    """

    def __init__(self, layout: Layout) -> None:
        """Begin with no batch, of a run whose logits have this layout."""
        super().__init__()
        self._layout = layout
        self._classes = 0
        self._counts: list[Tensor] = []

    def _kept(self, logits: Tensor, labels: Tensor) -> Batch:
        axes = axes_of_classes(logits, labels)
        classes = logits.shape[axes[0]]
        if self._classes not in (0, classes):
            raise invalid(
                "logits", f"{[*logits.shape]}: batches before had {self._classes} classes"
            )
        self._classes = classes
        self._layout.learn(axes, logits)
        return torch.stack([logits.argmax(axis) for axis in axes]), labels.clone()

    def _flat(self, batch: Batch) -> Batch:
        predictions, labels = batch
        labels = labels.to(predictions.device, torch.int64).flatten()
        return self._layout.pick(predictions).flatten(), labels

    def _score(self, batches: list[Batch]) -> None:
        predictions, labels = map(torch.cat, zip(*map(self._flat, batches), strict=True))
        counts = class_counts(predictions, labels, classes=self._classes)
        self._counts = [sum(self._counts, counts)]

    def value(self) -> float:
        """Return the score; NaN where all labels are ignored."""
        self._flush()
        _check_some(self._counts)
        score = float(self._score_of_counts())
        if score != score:
            warn_once(
                f"all labels of a chunk are ignored: none is a class in [0, {self._classes}); such "
                "a chunk has no score"
            )
        return score

    def _score_of_counts(self) -> Tensor:
        return macro_f1_of(self._counts[0])


class MacroF1OfBatches(MacroF1):
    """The mean of the batches' macro F1, as in the paper (Eqs. 7-10)."""

    def _score(self, batches: list[Batch]) -> None:
        self._counts += [macro_f1(*self._flat(batch), classes=self._classes) for batch in batches]

    def _score_of_counts(self) -> Tensor:
        return torch.stack(self._counts).nanmean()


class MetricScore(Waiting):
    """A metric of torchmetrics over the chunk; those wait for the device with each batch."""

    def __init__(
        self,
        make: Callable[[Tensor], Any],
        prepare: Callable[[Tensor, Tensor], Batch] = lambda logits, labels: (logits, labels),
    ) -> None:
        """Score by a metric.

        Args:
            make: makes it, given the first batch's logits.
            prepare: makes what it is updated with, given a batch's logits and labels.
        """
        super().__init__()
        self._make = make
        self._prepare = prepare
        self._metric: Any = None

    def _kept(self, logits: Tensor, labels: Tensor) -> Batch:
        return logits.detach().clone(), labels.to(logits.device).clone()

    def _score(self, batches: list[Batch]) -> None:
        for logits, labels in _joined(batches):
            if self._metric is None:
                self._metric = self._make(logits).to(logits.device)
                self._metric.reset()  # the script's own keeps what it has seen
                self._metric.sync_on_compute = False  # the ranks' scores are averaged later
            self._metric.update(*self._prepare(logits, labels))

    def value(self) -> float:
        """Return the score."""
        self._flush()
        _check_some([] if self._metric is None else [self._metric])
        return _number(self._metric.compute())


class FunctionScore:
    """The mean of a script's function of each batch, each sample with the same weight.

    It waits for the device only if the function does.
    """

    def __init__(self, score: Function) -> None:
        """Score each batch by `score`."""
        self._score = score
        self._scores: list[tuple[Any, int]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Score a batch; one without samples has no score."""
        size = logits.shape[0] if logits.ndim else 1
        if size:
            self._scores.append((self._score(logits.detach(), labels), size))

    def value(self) -> float:
        """Return the mean."""
        _check_some(self._scores)
        samples = sum(size for _, size in self._scores)
        return sum(_number(score) * size for score, size in self._scores) / samples


NAMED: dict[str, Callable[[Layout], Tally]] = {
    "macro-f1": MacroF1,
    "macro-f1-of-batches": MacroF1OfBatches,
}


def _joined(batches: list[Batch]) -> list[Batch]:
    """Return them as one batch, where their shapes allow it.

    torchmetrics asks each batch whether all its values are probabilities, as those of a few logits
    may be by chance.
    """
    shapes = {(logits.shape[1:], labels.shape[1:]) for logits, labels in batches}
    if len(shapes) > 1 or batches[0][1].ndim == 0:
        return batches
    logits, labels = map(torch.cat, zip(*batches, strict=True))
    return [(logits, labels)]


def _check_some(batches: Sized) -> None:
    if not batches:
        raise invalid("validation", "has no batch; give at least one")


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError) as error:
        raise invalid(
            "score", f"gave {score!r}; let it give one number (average='macro')"
        ) from error
