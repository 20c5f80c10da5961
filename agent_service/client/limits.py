"""Limits on what an agent may do to a training; what they change is told to it, and counted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_service.domain.checks import check_number, fields_by_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter

log = logging.getLogger("agent_service.client")


@fields_by_name
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
        for field in ("max_change", "spike"):
            if (number := getattr(self, field)) is not None:
                check_number(number, f"limits.{field}")
        if self.max_change is not None and not self.max_change > 0:
            raise invalid("limits.max_change", f"{self.max_change} must be above 0")
        if self.spike is not None and not self.spike > 1:
            raise invalid("limits.spike", f"{self.spike} must be above 1")


@dataclass(frozen=True, slots=True)
class _Judgement:
    """Of a chunk that is reported: it counts once the report is taken."""

    mean: float
    fault: str
    """What is wrong with its losses; empty where it is safe."""


class Guard:
    """Keeps one run within its limits."""

    def __init__(
        self, limits: Limits | None, hyperparameters: Sequence[Hyperparameter] = ()
    ) -> None:
        """Start with nothing known of the run.

        Args:
            limits: of the script; None sets none.
            hyperparameters: whose ranges no value leaves, whatever is answered.
        """
        self._limits = limits or Limits()
        self._ranges = {h.name: (h.low, h.high) for h in hyperparameters}
        self._running: Mapping[str, float] = {}
        self._safe: Mapping[str, float] = {}
        self._safe_loss = math.inf
        self._largest = 0.0
        self._judged: _Judgement | None = None
        self.interventions: Counter[str] = Counter()
        """How often a `change` was cut, a `spike` sent back, a loss `not finite`, a value out of
        `range`."""

    def ends(self, losses: Sequence[float]) -> bool:
        """Whether these losses end the run: one is not finite, and no `spike` is set."""
        return self._limits.spike is None and not all(map(math.isfinite, losses))

    def judge(self, losses: Sequence[float]) -> list[float]:
        """Take a chunk's losses; return them as they can be told.

        A loss that is not finite is told as the largest finite one of the run so far, where
        `spike` is set: it ends no run then. A report that failed may be judged again.
        """
        if self._limits.spike is None:
            return list(losses)
        finite = [loss for loss in losses if math.isfinite(loss)]
        self._largest = max([self._largest, *finite])
        told = [loss if math.isfinite(loss) else self._largest for loss in losses]
        mean = sum(told) / len(told)
        fault = "spike" if mean > self._limits.spike * self._safe_loss else ""
        self._judged = _Judgement(mean, "not finite" if len(finite) < len(losses) else fault)
        return told

    def limited(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what the next chunk runs under, where `values` were decided."""
        judged, self._judged = self._judged, None
        if judged is not None and not judged.fault:
            self._safe, self._safe_loss = self._running, judged.mean
        elif judged is not None:
            self._count(judged.fault)
        is_sent_back = judged is not None and judged.fault and self._safe
        self._running = dict(self._safe if is_sent_back else self._cut(self._within(values)))
        return dict(self._running)

    def _within(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return values inside their ranges; NaN, which is nowhere, becomes the lowest."""
        within = dict(values)
        for name, (low, high) in self._ranges.items():
            if not low <= within[name] <= high:
                within[name] = high if within[name] > high else low
                self._count("range")
        return within

    def _cut(self, values: Mapping[str, float]) -> Mapping[str, float]:
        most = self._limits.max_change
        if most is None or not self._running:
            return values
        cut = {name: _cut(value, self._running[name], most) for name, value in values.items()}
        if cut != dict(values):
            self._count("change")
        return cut

    def _count(self, what: str) -> None:
        self.interventions[what] += 1
        if self.interventions[what] == 1:
            log.warning("the run's limits act for the first time: %s", what)


def _cut(value: float, running: float, most: float) -> float:
    """Return `value`, or what lies `most` from `running` on the way to it."""
    # Within the limit a value is taken to the bit: `running - most` may miss it in the last ones.
    return value if abs(value - running) <= most else running + math.copysign(most, value - running)
