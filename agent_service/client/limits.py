"""Limits on what an agent may do to a training; what they change is told to it, and counted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_service.domain.errors import invalid

log = logging.getLogger("agent_service.client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a run follows its agent; raises InvalidArgument where a limit makes no sense."""

    max_change: float | None = None
    """Largest change of a value from chunk to chunk, in the hyperparameter's own unit, above 0."""
    spike: float | None = None
    """A chunk whose mean loss is more than so many times that of the last safe chunk, above 1, or
    is not finite: the next one runs under that safe chunk's values."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_change is not None and not self.max_change > 0:
            raise invalid("limits.max_change", f"{self.max_change} must be above 0")
        if self.spike is not None and not self.spike > 1:
            raise invalid("limits.spike", f"{self.spike} must be above 1")


class Guard:
    """Keeps one run within its limits."""

    def __init__(self, limits: Limits | None) -> None:
        """Start with nothing known of the run."""
        self._limits = limits or Limits()
        self._running: Mapping[str, float] = {}
        self._safe: Mapping[str, float] = {}
        self._safe_loss = math.inf
        self._largest = 0.0
        self._is_safe = True
        self.interventions: Counter[str] = Counter()
        """How often a `change` was cut, a `spike` sent back, a loss `not finite`."""

    def judge(self, losses: Sequence[float]) -> list[float]:
        """Take a chunk's losses; return them as they can be told.

        A loss that is not finite is told as the largest finite one of the run so far, where
        `spike` is set: it ends no run then.
        """
        if self._limits.spike is None:
            return list(losses)
        finite = [loss for loss in losses if math.isfinite(loss)]
        self._largest = max([self._largest, *finite])
        told = [loss if math.isfinite(loss) else self._largest for loss in losses]
        mean = sum(told) / len(told)
        is_spike = mean > self._limits.spike * self._safe_loss
        self._is_safe = len(finite) == len(losses) and not is_spike
        if self._is_safe:
            self._safe, self._safe_loss = self._running, mean
        else:
            self._count("spike" if len(finite) == len(losses) else "not finite")
        return told

    def limited(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what the next chunk runs under, where `values` were decided."""
        if not self._is_safe and self._safe:
            values, self._is_safe = self._safe, True
        else:
            values = self._cut(values)
        self._running = dict(values)
        return dict(values)

    def _cut(self, values: Mapping[str, float]) -> Mapping[str, float]:
        most = self._limits.max_change
        if most is None or not self._running:
            return values
        cut = {
            name: min(max(value, self._running[name] - most), self._running[name] + most)
            for name, value in values.items()
        }
        if cut != dict(values):
            self._count("change")
        return cut

    def _count(self, what: str) -> None:
        self.interventions[what] += 1
        if self.interventions[what] == 1:
            log.warning("the run's limits act for the first time: %s", what)
