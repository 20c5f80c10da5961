"""Observations that mean the same on every problem, for policies that decide on any.

What a run is about, how far it is, what it runs under, and what its losses and scores did: each
number is scaled to lie near [-1, 1], clipped to [-4, 4] and rounded to float32. What is unknown is
0 with its mark 0, what is known has the mark 1. A vector follows from the one before it and the
newest report alone, so that what is stored of a run derives it again.

Losses are divided by ln C, the loss of guessing among C classes; scores are rescaled so that
guessing is 0: (F1 - 1/C) / (1 - 1/C). Where C is unknown, 10 stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Scores

if TYPE_CHECKING:
    import numpy as np

LIMIT = 4.0
"""Largest magnitude of a number that is observed."""
CLASSES = 10
"""Classes that stand in for an unknown number."""
SMOOTHING = 0.3
"""Weight of the newest score in the smoothed ones."""

ABOUT = (
    "plan known",
    "share of the plan trained",
    "ln planned steps / 400",
    "ln (1 + steps trained / 100) / 2",
    "samples known",
    "ln samples / 400, by 1.3",
    "batch size known",
    "ln batch size / 32",
    "steps of an epoch known",
    "ln steps of an epoch / 12, by 1.5",
    "ln (1 + epochs trained) / 2 - 0.5",
    "classes known",
    "ln classes / 2 - 1",
    "learning rate known",
    "ln learning rate / 0.002",
    "parameters known",
    "ln parameters / 20,000, by 2",
    "sites known",
    "ln sites / 2",
    "first chunk",
)
"""What is known before the first report, in order."""
REPORTED = (
    "mean loss",
    "its change by 5",
    "its slope in the chunk by 3",
    "training score",
    "validation score",
    "training less validation by 2",
    "smoothed validation score",
    "smoothed difference by 2",
    "validation score less the smoothed one by 5",
    "difference less the smoothed one by 5",
    "best validation score",
    "validation score less the best by 5",
    "share of the plan since the best by 2, or steps / 400",
)
"""What reports tell, in order; zeros before the first."""
OF_EACH = ("place", "mean place")
"""Of each hyperparameter, at the end: of what the last chunk ran under, and of all so far."""
PARTS = {
    "problem": range(4, 19),
    "plan": range(3),
    "losses": range(len(ABOUT), len(ABOUT) + 3),
    "scores": range(len(ABOUT) + 3, len(ABOUT) + len(REPORTED)),
}
"""Places of what is told of the problem and of the plan, and of what losses and scores tell."""


def size(hyperparameters: int) -> int:
    """Return how many numbers are observed."""
    return len(ABOUT) + len(REPORTED) + len(OF_EACH) * hyperparameters


def names(hyperparameters: int) -> list[str]:
    """Return what each number is, in order; for manifests and pictures."""
    each = [f"{what} {number + 1}" for number in range(hyperparameters) for what in OF_EACH]
    return [*ABOUT, *REPORTED, *each]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What stays the same in a run."""

    problem: Problem
    planned_chunks: int | None
    chunk_size: int
    """N, training steps in a chunk."""
    hyperparameters: int
    """How many a controller sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a chunk brought."""

    chunk: int
    """Its index, from 1."""
    losses: Sequence[float]
    """N training losses, in order."""
    scores: Scores
    places: Sequence[float]
    """Of what it ran under, in the policy's [-1, 1], one for each hyperparameter."""


def first(setting: Setting) -> np.ndarray:
    """Return what is observed before the first chunk, float64[size]."""
    reported = [0.0] * (len(REPORTED) + len(OF_EACH) * setting.hyperparameters)
    return _finished(_about(setting, trained=0) + reported)


def following(setting: Setting, before: np.ndarray, report: Report) -> np.ndarray:
    """Return what is observed after a report, float64[size].

    Args:
        setting: of the run.
        before: what was observed before the reported chunk.
        report: of that chunk.
    """
    numbers = before.tolist()
    there = len(ABOUT) + len(REPORTED)
    reported = _reported(setting, dict(zip(REPORTED, numbers[len(ABOUT) :], strict=False)), report)
    places: list[float] = []
    for at, place in enumerate(report.places):
        mean = numbers[there + len(OF_EACH) * at + 1]
        places += [place, mean + (place - mean) / report.chunk]
    return _finished(_about(setting, trained=report.chunk) + reported + places)


def _about(setting: Setting, *, trained: int) -> list[float]:
    """Return the numbers of `ABOUT` after so many chunks."""
    problem, plan, steps = setting.problem, setting.planned_chunks, trained * setting.chunk_size
    epoch = None
    if problem.training_samples is not None and problem.batch_size is not None:
        epoch = max(problem.training_samples / problem.batch_size, 1.0)
    return [
        *_marked(plan, lambda chunks: min(trained / chunks, 1.0)),
        0.0 if plan is None else math.log(plan * setting.chunk_size / 400),
        math.log1p(steps / 100) / 2,
        *_marked(problem.training_samples, lambda samples: math.log(samples / 400) / 1.3),
        *_marked(problem.batch_size, lambda batch: math.log(batch / 32)),
        *_marked(epoch, lambda length: math.log(length / 12) / 1.5),
        0.0 if epoch is None else math.log1p(steps / epoch) / 2 - 0.5,
        *_marked(problem.classes, lambda classes: math.log(classes) / 2 - 1),
        *_marked(problem.learning_rate, lambda rate: math.log(rate / 0.002)),
        *_marked(problem.parameters, lambda count: math.log(count / 20_000) / 2),
        *_marked(problem.sites, lambda sites: math.log(sites / 2)),
        0.0 if trained else 1.0,
    ]


def _marked(value: float | None, scaled: Callable[[float], float]) -> tuple[float, float]:
    """Return the mark and the scaled value of what may be unknown."""
    return (0.0, 0.0) if value is None else (1.0, scaled(value))


def _reported(setting: Setting, before: Mapping[str, float], report: Report) -> list[float]:
    """Return the numbers of `REPORTED`, of which `before` holds those before the chunk."""
    classes = setting.problem.classes or CLASSES
    losses = [loss / math.log(classes) for loss in report.losses]
    part = max(1, len(losses) // 4)
    loss, slope = _mean(losses), _mean(losses[-part:]) - _mean(losses[:part])
    training, validation = (
        (score - 1 / classes) / (1 - 1 / classes)
        for score in (report.scores.training, report.scores.validation)
    )
    gap = training - validation
    is_first = report.chunk == 1
    smoothed, smoothed_gap = before[REPORTED[6]], before[REPORTED[7]] / 2
    if is_first:
        smoothed, smoothed_gap = validation, gap
    best = validation if is_first else max(before[REPORTED[10]], validation)
    # A plan may be shorter than the run turns out.
    passed = 2 / setting.planned_chunks if setting.planned_chunks else setting.chunk_size / 400
    is_best = best - validation < 1e-6  # what came before is rounded
    since = 0.0 if is_best else before[REPORTED[12]] + passed
    return [
        loss,
        0.0 if is_first else 5 * (loss - before[REPORTED[0]]),
        3 * slope,
        training,
        validation,
        2 * gap,
        smoothed + SMOOTHING * (validation - smoothed),
        2 * (smoothed_gap + SMOOTHING * (gap - smoothed_gap)),
        5 * (validation - smoothed),
        5 * (gap - smoothed_gap),
        best,
        5 * (validation - best),
        since,
    ]


def _mean(numbers: Sequence[float]) -> float:
    # Divided one by one, so that the sum of finite losses stays finite.
    return math.fsum(number / len(numbers) for number in numbers)


def _finished(numbers: Sequence[float]) -> np.ndarray:
    """Clip, and round to float32: logarithms differ between machines in the last bits."""
    import numpy as np  # here alone: the client imports this file, and needs none of it for that

    clipped = [min(max(number, -LIMIT), LIMIT) for number in numbers]
    return np.array(clipped, np.float32).astype(np.float64)
