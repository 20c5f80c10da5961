"""The schedule controller: values that follow the chunk index alone (Figure 2, Diagram 2)."""

from __future__ import annotations

import math

from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, ScheduleSettings, Shape
from agent_service.domain.store import Situation


class ScheduleController:
    """Decides by progress, blind to the losses."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take the course from a spec whose algorithm is a schedule."""
        assert isinstance(spec.algorithm, ScheduleSettings)
        self._settings = spec.algorithm
        self._hyperparameters = spec.hyperparameters

    def decide(self, situation: Situation) -> Choice:
        """Return the action for the situation's chunk."""
        settings = self._settings
        share = course(settings, chunk=situation.chunk)
        sample = tuple(
            h.unit(settings.start[h.name] * (1.0 - share) + settings.end[h.name] * share)
            for h in self._hyperparameters
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
