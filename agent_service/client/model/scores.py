"""Scores of a chunk, accumulated batch by batch without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from agent_service.client.model.layouts import Layout, axes_of_classes, warn_once
from agent_service.domain.errors import invalid
from agent_service.scores import class_counts, macro_f1, macro_f1_of

Function = Callable[[Tensor, Tensor], Any]
"""Scores a batch's logits and labels: a number or scalar tensor in [0, 1], larger is better."""
Score = str | Function
"""A name in `NAMED` or `torchmetrics_scores.NAMED`, a metric of torchmetrics, or a function."""
Batch = tuple[Tensor, Tensor]

LIMIT = 8 * 2**20
"""Maximum size of unscored batches in bytes. Beyond it they are scored at once, which may wait for
the device: a chunk of a language model's logits would not fit in memory."""


class Tally(Protocol):
    """The training or validation score of one chunk."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch."""
        ...

    def value(self) -> float:
        """Return the score of all added batches; waits for the device."""
        ...


Scoring = Callable[[], Tally]
"""Starts the score of a chunk; created once per run."""


def scoring_of(score: Score | None) -> Scoring:
    """Return the scoring for a script's `score` argument; None is macro F1 over all samples.

    Raises:
        InvalidArgument: an unknown name, or a metric whose smaller values are better.
        AgentError: the name needs torchmetrics, which is not installed.
    """
    if score is None:
        score = "macro-f1"
    if isinstance(score, str):  # first, since a metric's == returns another metric
        return partial(NAMED[score], Layout()) if score in NAMED else _of_torchmetrics(score)
    metric: Any = score
    if not hasattr(metric, "higher_is_better"):
        return partial(FunctionScore, score)
    if metric.higher_is_better is False:
        raise invalid(
            "score",
            f"smaller is better for {type(score).__name__}; give one where larger is better",
        )
    return partial(MetricScore, lambda _logits: metric.clone())


def _of_torchmetrics(name: str) -> Scoring:
    from agent_service.client.model import torchmetrics_scores

    if name not in torchmetrics_scores.NAMED:
        raise invalid("score", f"{name!r} is not one of {[*NAMED, *torchmetrics_scores.NAMED]}")
    torchmetrics_scores.check_installed(name)
    return partial(MetricScore, *torchmetrics_scores.NAMED[name])


class BufferedScore:
    """Buffers batches and scores them together.

    Buffers copies, since a CUDA graph, or a loader with one buffer, reuses its tensors.
    """

    def __init__(self) -> None:
        """Start without batches."""
        self._batches: list[Batch] = []
        self._bytes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Buffer a batch, and score the buffer if it is full."""
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
        """Return copies of what the score of a batch needs."""
        raise NotImplementedError

    def _score(self, batches: list[Batch]) -> None:
        """Score batches."""
        raise NotImplementedError


class MacroF1(BufferedScore):
    """Macro F1 over all samples of the chunk, the default: independent of the batch size.

    Labels outside [0, classes) are ignored, as the loss must do as well: -100, -1, 255.
    """

    def __init__(self, layout: Layout) -> None:
        """Start without batches; `layout` is shared by all chunks of the run."""
        super().__init__()
        self._layout = layout
        self._classes = 0
        self._counts: list[Tensor] = []

    def _kept(self, logits: Tensor, labels: Tensor) -> Batch:
        axes = axes_of_classes(logits, labels)
        classes = logits.shape[axes[0]]
        if self._classes not in (0, classes):
            raise invalid(
                "logits", f"{[*logits.shape]}: earlier batches had {self._classes} classes"
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
        """Return the score; NaN if all labels are ignored."""
        self._flush()
        _check_some(self._counts)
        score = float(self._score_of_counts())
        if score != score:
            warn_once(
                f"all labels of a chunk are ignored, as none is a class in [0, {self._classes}); "
                "the chunk has no score"
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


class MetricScore(BufferedScore):
    """A metric of torchmetrics over the chunk; its updates wait for the device."""

    def __init__(
        self,
        make: Callable[[Tensor], Any],
        prepare: Callable[[Tensor, Tensor], Batch] = lambda logits, labels: (logits, labels),
    ) -> None:
        """Score by a metric.

        Args:
            make: creates the metric, given the first batch's logits.
            prepare: converts a batch's logits and labels to the arguments of `update`.
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
                self._metric.reset()  # a clone copies the state of the script's metric
                self._metric.sync_on_compute = False  # scores are averaged over ranks later
            self._metric.update(*self._prepare(logits, labels))

    def value(self) -> float:
        """Return the score."""
        self._flush()
        _check_some([] if self._metric is None else [self._metric])
        return _number(self._metric.compute())


class FunctionScore:
    """The mean of a script's score function over batches, weighted by their sample counts.

    It waits for the device only if the function does.
    """

    def __init__(self, score: Function) -> None:
        """Score each batch by `score`."""
        self._score = score
        self._scores: list[tuple[Any, int]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Score a batch; an empty batch is skipped."""
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
    """Concatenate batches, if their shapes allow it.

    torchmetrics checks for each batch whether all values are probabilities, which a few logits may
    be by chance.
    """
    shapes = {(logits.shape[1:], labels.shape[1:]) for logits, labels in batches}
    if len(shapes) > 1 or batches[0][1].ndim == 0:
        return batches
    logits, labels = map(torch.cat, zip(*batches, strict=True))
    return [(logits, labels)]


def _check_some(batches: Sized) -> None:
    if not batches:
        raise invalid("validation", "has no batches; give at least one")


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError) as error:
        raise invalid(
            "score", f"returned {score!r}; it must return one number (average='macro')"
        ) from error
