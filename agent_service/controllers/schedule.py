"""The schedule controller: values that follow the chunk index alone (Figure 2, Diagram 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from agent_service.domain.checks import check_at_least_one, fields_by_name, member
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter, check_values
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, Settings

if TYPE_CHECKING:
    from agent_service.domain.store import Situation


class Shape(StrEnum):
    """The course of a hand-made schedule."""

    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"
    EXPONENTIAL = "exponential"
    """1 - exp(-10 progress): curriculum dropout's (Morerio et al. 2017)."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings(Settings):
    """Values that follow the run's progress and nothing else (Figure 2, Diagram 2)."""

    kind: Literal["schedule"] = "schedule"
    shape: Shape
    """The way from start to end."""
    start: Mapping[str, float]
    """Values for chunk 1, by hyperparameter name."""
    end: Mapping[str, float]
    """Values from chunk `chunks` on, by hyperparameter name."""
    chunks: int
    """Index of the chunk that is the first to run under `end`; at least 2."""
    steps: int = 1
    """Jumps of a step schedule, evenly placed; unused by the other shapes."""

    def __post_init__(self) -> None:
        """Check the shape and the lengths; raises InvalidArgument naming the setting."""
        object.__setattr__(self, "shape", member(Shape, self.shape, "shape"))
        if self.chunks < 2:
            raise invalid("chunks", f"{self.chunks} must be at least 2")
        check_at_least_one("steps", self.steps)

    def check(self, hyperparameters: Sequence[Hyperparameter]) -> None:
        """Check both ends against the ranges; raises InvalidArgument naming the value."""
        check_values(hyperparameters, self.start, field="start")
        check_values(hyperparameters, self.end, field="end")

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the action for the situation's chunk, blind to the losses."""
        share = course(self, chunk=situation.chunk)
        sample = tuple(
            h.unit(self.start[h.name] * (1.0 - share) + self.end[h.name] * share)
            for h in spec.hyperparameters
        )
        return Choice(sample, log_probability=0.0, explored=False)


def course(settings: ScheduleSettings, *, chunk: int) -> float:
    """Return the share, in [0, 1], of the way from start to end for a chunk, from 1."""
    # 1) At the end and after: there.
    if chunk >= settings.chunks:
        return 1.0
    progress = (chunk - 1) / (settings.chunks - 1)
    # 2) Half a cosine: slow at both ends.
    if settings.shape is Shape.COSINE:
        return 0.5 * (1.0 - math.cos(math.pi * progress))
    # 3) Equal jumps, the last one at the end.
    if settings.shape is Shape.STEP:
        return math.floor(progress * settings.steps) / settings.steps
    # 4) Most of the way at first.
    if settings.shape is Shape.EXPONENTIAL:
        return 1.0 - math.exp(-10.0 * progress)
    # 5) A straight line.
    return progress
