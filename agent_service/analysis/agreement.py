"""Agreement between two series of decisions on the same states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent_service.domain.hyperparameters import Hyperparameter

CLOSE = 0.05
"""Share of a hyperparameter's range within which two values count as close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement between two series of one hyperparameter's values."""

    decisions: int
    mean_difference: float
    """Mean absolute difference, in the hyperparameter's own unit."""
    correlation: float | None
    """Pearson correlation in [-1, 1]; None if either series is constant."""
    close: float
    """Share of decisions that differ by at most `CLOSE` of the (logarithmic) range."""


def compare_values(
    hyperparameter: Hyperparameter, ours: Sequence[float], theirs: Sequence[float]
) -> Agreement:
    """Return the agreement between two series of equal length, at least 1.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if not 0 < len(ours) == len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values; give equally many, at least 1")
    first, second = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    units = np.array([[hyperparameter.unit(v) for v in values] for values in (ours, theirs)])
    # The policy's range has width 2; the factor admits exactly CLOSE despite rounding.
    is_close = np.abs(units[0] - units[1]) <= 2.0 * CLOSE * (1.0 + 1e-9)
    is_constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return Agreement(
        decisions=len(first),
        mean_difference=float(np.abs(first - second).mean()),
        correlation=None if is_constant else float(np.corrcoef(first, second)[0, 1]),
        close=float(is_close.mean()),
    )
