"""How far two ways of deciding agree on the same states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent_service.domain.hyperparameters import Hyperparameter

CLOSE = 0.05
"""Share of a hyperparameter's range within which two values count as close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of two courses of one hyperparameter's values."""

    decisions: int
    mean_difference: float
    """Mean absolute difference, in the hyperparameter's own unit."""
    correlation: float | None
    """Pearson's, in [-1, 1]; None where either is constant."""
    close: float
    """Share of decisions that lie within `CLOSE` of the range: on a log scale, of its logarithm."""


def compare_values(
    hyperparameter: Hyperparameter, ours: Sequence[float], theirs: Sequence[float]
) -> Agreement:
    """Return how two courses of values agree, at least one value each, equally many.

    Raises:
        ValueError: where there is none, or not as many of one as of the other.
    """
    if not 0 < len(ours) == len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values; give as many of each")
    first, second = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    units = np.array([[hyperparameter.unit(v) for v in values] for values in (ours, theirs)])
    # The policy's range is 2 wide; one part in 10^9 lets a distance of just that count, rounded.
    is_close = np.abs(units[0] - units[1]) <= 2.0 * CLOSE * (1.0 + 1e-9)
    is_constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return Agreement(
        decisions=len(first),
        mean_difference=float(np.abs(first - second).mean()),
        correlation=None if is_constant else float(np.corrcoef(first, second)[0, 1]),
        close=float(is_close.mean()),
    )
