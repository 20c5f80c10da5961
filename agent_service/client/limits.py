"""Limits on an agent's actions; values that they change are reported as applied, and counted."""

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
    """Limits on the actions that a run applies; raises InvalidArgument for an invalid limit."""

    max_change: float | None = None
    """Largest change of a value from chunk to chunk, in the hyperparameter's own unit, above 0."""
    spike: float | None = None
    """Factor above 1: if a chunk's mean loss exceeds the last safe chunk's by it, or is not finite,
    the next chunk runs under that safe chunk's values."""
    low: float | None = None
    """Smallest value, in the hyperparameter's own unit, where its range goes further down."""
    high: float | None = None
    """Largest value, above `low`, where its range goes further up."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field in ("max_change", "spike", "low", "high"):
            if (number := getattr(self, field)) is not None:
                check_number(number, f"limits.{field}")
        if self.max_change is not None and not self.max_change > 0:
            raise invalid("limits.max_change", f"{self.max_change} must be above 0")
        if self.spike is not None and not self.spike > 1:
            raise invalid("limits.spike", f"{self.spike} must be above 1")
        for field, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and not math.isfinite(bound):
                raise invalid(f"limits.{field}", f"{bound} is not finite")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise invalid("limits.low", f"{self.low} is not below high, {self.high}")


def range_left(limits: Limits, hyperparameter: Hyperparameter) -> tuple[float, float]:
    """Return the part of a hyperparameter's range that the limits leave.

    Raises:
        InvalidArgument: they leave nothing.
    """
    name, low, high = hyperparameter.name, hyperparameter.low, hyperparameter.high
    if limits.low is not None and limits.low >= high:
        raise invalid("limits.low", f"{limits.low} leaves nothing of {name}'s [{low}, {high}]")
    if limits.high is not None and limits.high <= low:
        raise invalid("limits.high", f"{limits.high} leaves nothing of {name}'s [{low}, {high}]")
    return (
        low if limits.low is None else max(low, limits.low),
        high if limits.high is None else min(high, limits.high),
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """On a reported chunk; it takes effect when the report is accepted."""

    mean: float
    """Mean loss."""
    fault: str
    """The fault of its losses; empty if the chunk is safe."""


class RunLimiter:
    """Keeps one run within its limits."""

    def __init__(
        self, limits: Limits | None, hyperparameters: Sequence[Hyperparameter] = ()
    ) -> None:
        """Start before the first chunk.

        Args:
            limits: the script's limits; None for no limits.
            hyperparameters: values are always kept in their ranges, whatever the agent answers, or
                in the part of them that the limits leave.
        """
        self._limits = limits or Limits()
        self._ranges = {h.name: range_left(self._limits, h) for h in hyperparameters}
        self._running: Mapping[str, float] = {}
        self._safe: Mapping[str, float] = {}
        self._safe_loss = math.inf
        self._largest = 0.0
        self._verdict: _Verdict | None = None
        self.interventions: Counter[str] = Counter()
        """How often a limit acted: `change`, `spike`, `not finite` (a loss), `range`."""

    def ends(self, losses: Sequence[float]) -> bool:
        """Whether these losses end the run: one is not finite, and `spike` is not set."""
        return self._limits.spike is None and not all(map(math.isfinite, losses))

    def judge(self, losses: Sequence[float]) -> list[float]:
        """Judge a chunk by its losses, and return them as they can be reported.

        With `spike` a non-finite loss does not end the run: it is reported as the largest finite
        loss of the run so far. If the report fails, the chunk may be judged again.
        """
        if self._limits.spike is None:
            return list(losses)
        finite = [loss for loss in losses if math.isfinite(loss)]
        self._largest = max([self._largest, *finite])
        reported = [loss if math.isfinite(loss) else self._largest for loss in losses]
        mean = sum(reported) / len(reported)
        fault = "spike" if mean > self._limits.spike * self._safe_loss else ""
        self._verdict = _Verdict(mean, "not finite" if len(finite) < len(losses) else fault)
        return reported

    def limited(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values for the next chunk, given the decided ones."""
        verdict, self._verdict = self._verdict, None
        if verdict is not None and not verdict.fault:
            self._safe, self._safe_loss = self._running, verdict.mean
        elif verdict is not None:
            self._count(verdict.fault)
        goes_back = verdict is not None and verdict.fault and self._safe
        self._running = dict(self._safe if goes_back else self._cut(self._within(values)))
        return dict(self._running)

    def _within(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return values clipped to their ranges; NaN becomes the lower bound."""
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

    def _count(self, limit: str) -> None:
        self.interventions[limit] += 1
        if self.interventions[limit] == 1:
            log.warning("the run's limits act for the first time: %s", limit)


def _cut(value: float, running: float, most: float) -> float:
    """Return `value`, or the point `most` away from `running` in its direction."""
    # Within the limit `value` itself, bit for bit: clamping it to `running - most` may round.
    return value if abs(value - running) <= most else running + math.copysign(most, value - running)
