"""Paired statistics over seeds, all of them SciPy's: means, intervals of differences, tests.

Methods are judged on the same seeds, so what is compared is the difference seed by seed.

Two 95% intervals of a mean difference are told. The bootstrap's is asked for most, and is too
narrow for few seeds; Student's t keeps its promise where differences are about normal. On simulated
studies, whose true differences are known (`tests/trainer_service/study/test_coverage.py`), they
held the truth in COVERAGE. So verdicts come from Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of the intervals."""
RESAMPLES = 9999
"""Of the bootstrap."""
NO_SPREAD = 1e-12
"""Differences within this are one and the same: rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Scores of one method over seeds."""

    mean: float
    deviation: float | None
    """Of the sample (n - 1); None for one seed."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """From low to high; both equal where all differences are."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one method is above another, seed by seed."""

    mean: float
    student: Interval | None
    """95%, by Student's t; None for fewer than two seeds."""
    bootstrap: Interval | None
    """95%, by bias-corrected and accelerated bootstrap; None for fewer than two seeds."""
    count: int
    """Seeds that both have."""

    @property
    def verdict(self) -> str:
        """`ahead`, `behind` or `not told apart`, by Student's interval."""
        if self.student is not None and self.student.low > 0:
            return "ahead"
        if self.student is not None and self.student.high < 0:
            return "behind"
        return "not told apart"


def summary(scores: Sequence[float]) -> Summary:
    """Return what scores come to; at least one is needed."""
    deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Summary(mean=float(np.mean(scores)), deviation=deviation, count=len(scores))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return how far `ours`, float[n], are above `theirs`, in the same order of seeds; n >= 1."""
    gaps = np.subtract(ours, theirs)
    student = bootstrap = None
    if len(gaps) > 1:
        student, bootstrap = _student(gaps), _bootstrap(gaps)
    return Difference(
        mean=float(gaps.mean()), student=student, bootstrap=bootstrap, count=len(gaps)
    )


def _student(gaps: np.ndarray) -> Interval:
    if np.ptp(gaps) < NO_SPREAD:  # SciPy would warn of lost precision
        return Interval(low=float(gaps[0]), high=float(gaps[0]))
    found = stats.ttest_1samp(gaps, 0.0).confidence_interval(LEVEL)
    return Interval(low=float(found.low), high=float(found.high))


def _bootstrap(gaps: np.ndarray) -> Interval:
    if np.ptp(gaps) < NO_SPREAD:  # BCa divides by the spread
        return Interval(low=float(gaps[0]), high=float(gaps[0]))
    found = stats.bootstrap(
        (gaps,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=0
    ).confidence_interval
    return Interval(low=float(found.low), high=float(found.high))


def wilcoxon(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test on pairs; 1 where none differs."""
    gaps = np.subtract(ours, theirs)
    return float(stats.wilcoxon(gaps).pvalue) if np.any(gaps) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Return p values that are corrected for their number (Holm 1979), in the given order.

    The k-th smallest of m is multiplied by m - k + 1; none may be below a smaller one's.
    """
    order = np.argsort(values, kind="stable")
    scaled = np.asarray(values)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]
