"""Hyperparameters, which actions set, and the mapping of the policy's [-1, 1] to their range."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent_service.domain.checks import check_name, check_number, cut, member, quoted
from agent_service.domain.errors import invalid

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Form of the names of controllers and hyperparameters."""
LONGEST_NAME = 63


class Scale(StrEnum):
    """Mapping of the policy's [-1, 1] to [low, high]."""

    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One regularization setting in [low, high], e.g. a drop rate."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,62}`."""
    low: float
    """Smallest value, inclusive; above 0 for a log scale."""
    high: float
    """Largest value, inclusive; above `low`."""
    scale: Scale = Scale.LINEAR
    """Whether equal steps of the policy are equal differences (linear) or equal ratios (log)."""

    def __post_init__(self) -> None:
        """Check the name's form, the range and the scale.

        Raises:
            InvalidArgument: a field is invalid; names it.
        """
        check_name(self.name, NAME, longest=LONGEST_NAME)
        object.__setattr__(self, "scale", member(Scale, self.scale, "scale"))
        for field, bound in (("low", self.low), ("high", self.high)):
            check_number(bound, field)
            if not math.isfinite(bound):
                raise invalid(field, f"{bound} is not finite")
        if self.low >= self.high:
            raise invalid("low", f"{self.low} is not below high, {self.high}")
        if not math.isfinite(self.high - self.low):
            raise invalid("high", f"{self.high} is too far above low, {self.low}")
        if self.scale is Scale.LOG and self.low <= 0:
            raise invalid("low", f"{self.low} must be above 0 for a log scale")

    def value(self, unit: float) -> float:
        """Map the policy's `unit`, clipped to [-1, 1], to a value in [low, high]."""
        share = (min(max(unit, -1.0), 1.0) + 1.0) / 2.0
        is_log = self.scale is Scale.LOG
        low, high = (math.log(self.low), math.log(self.high)) if is_log else (self.low, self.high)
        value = low * (1.0 - share) + high * share  # shares 0 and 1 give the bounds exactly
        if is_log:
            value = math.exp(value)
        # Twelve digits, so that 0.3 stays 0.3 and logs are readable. Clipped last, since rounding
        # may step over a bound.
        return min(max(float(f"{value:.12g}"), self.low), self.high)

    def unit(self, value: float) -> float:
        """Map a `value`, clipped to [low, high], back to [-1, 1], the inverse of `value()`."""
        value = min(max(value, self.low), self.high)
        if self.scale is Scale.LOG:
            low, high, value = math.log(self.low), math.log(self.high), math.log(value)
        else:
            low, high = self.low, self.high
        return min(max(2.0 * (value - low) / (high - low) - 1.0, -1.0), 1.0)


def named_values(
    hyperparameters: Sequence[Hyperparameter], units: Sequence[float]
) -> dict[str, float]:
    """Return each hyperparameter's value by name for the policy's `units`, one for each."""
    return {h.name: h.value(unit) for h, unit in zip(hyperparameters, units, strict=True)}


def places_of(
    hyperparameters: Sequence[Hyperparameter], values: Mapping[str, float]
) -> tuple[float, ...]:
    """Return where values, clipped to their ranges, lie in the policy's [-1, 1], one for each."""
    # Rounded as values are: logarithms differ between machines in the last bits of float64.
    return tuple(round(h.unit(values[h.name]), 12) for h in hyperparameters)


def check_values(
    hyperparameters: Sequence[Hyperparameter], values: Mapping[str, float], *, field: str
) -> None:
    """Check that `values` names exactly the hyperparameters, each inside its range.

    Raises:
        InvalidArgument: an entry of `field` is missing, unknown or out of range; names it.
    """
    known = {h.name: h for h in hyperparameters}
    if not isinstance(values, Mapping):
        raise invalid(field, f"{quoted(values)} given; write {{'{next(iter(known))}': ...}}")
    for name in values:
        if name not in known:
            key = f"{field}[{cut(str(name))}]"
            raise invalid(key, f"no such hyperparameter; there are {sorted(known)}")
    for name, h in known.items():
        if name not in values:
            raise invalid(f"{field}[{name}]", "is missing; give a value for each hyperparameter")
        check_number(values[name], f"{field}[{name}]")
        if not h.low <= values[name] <= h.high:
            raise invalid(f"{field}[{name}]", f"{values[name]} is not in [{h.low}, {h.high}]")
