"""Paired statistics: known answers, and promises kept on simulated studies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.trainer_service.study.simulated import TRAINING, Rates, judged, result
from trainer_service.simulation.child import SimulatedChild
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import Plan
from trainer_service.study.results.rows import Row, make_rows
from trainer_service.study.results.statistics import (
    Difference,
    Verdict,
    difference,
    holm,
    summary,
    wilcoxon,
)
from trainer_service.study.spec import StudySpec
from trainer_service.training.spec import Method


def test_a_summary_is_mean_and_sample_deviation() -> None:
    """Over seeds, with n - 1; one seed has no deviation."""
    assert summary([0.5, 0.7]).deviation == pytest.approx(0.1414, abs=1e-4)
    assert summary([0.5]).deviation is None


def test_students_interval_is_the_textbooks() -> None:
    """Student's own data of 1908: sleep gained under two drugs, difference 1.58, 0.70 to 2.46."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

    found = difference(second, first)

    assert found.mean == pytest.approx(1.58)
    assert found.student is not None
    assert (found.student.low, found.student.high) == pytest.approx((0.70, 2.46), abs=0.005)
    assert found.verdict is Verdict.AHEAD
    assert difference(first, second).verdict is Verdict.BEHIND


def test_among_many_comparisons_a_verdict_needs_more() -> None:
    """The joint interval is Bonferroni's: that of level 1 - 0.05 / m. Here p is 0.0028."""
    gaps = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    m = 50
    found = difference(gaps, [0.0] * 10, family=m)

    half = stats.t.ppf(1 - 0.05 / m / 2, 9) * stats.sem(gaps)
    assert found.joint is not None
    assert (found.joint.low, found.joint.high) == pytest.approx((1.58 - half, 1.58 + half))
    assert found.student == difference(gaps, [0.0] * 10).joint
    assert found.verdict is Verdict.SEEMS_AHEAD
    assert difference([0.0] * 10, gaps, family=m).verdict is Verdict.SEEMS_BEHIND
    assert difference(gaps, [0.0] * 10, family=17).verdict is Verdict.AHEAD
    assert difference(gaps, [0.0] * 10, family=18).verdict is Verdict.SEEMS_AHEAD


def test_holms_correction_is_the_published_one() -> None:
    """The example of Aickin and Gensler, AJPH 86 (1996): four of these, in any order."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_helps_a_claim(values: list[float]) -> None:
    """No p gets smaller, none passes 1, and their order stays."""
    corrected = holm(values)

    assert all(p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    assert all(
        corrected[i] <= corrected[j]
        for i in range(len(values))
        for j in range(len(values))
        if values[i] < values[j]
    )


@pytest.mark.parametrize(
    "gaps",
    [[0.1], [0.1, 0.1], [0.1, 0.1001], [0.1, 0.1, 0.1], [-0.1] * 8],
)
def test_too_few_pairs_have_no_verdict(gaps: list[float]) -> None:
    """Of two seeds, or of equal differences, Student's interval may have no width at all."""
    assert difference(gaps, [0.0] * len(gaps)).verdict is Verdict.TOO_FEW
    assert difference([0.1, 0.101, 0.102], [0.0] * 3).verdict is Verdict.AHEAD
    assert difference([0.0] * 8, [0.0] * 8).verdict is Verdict.OPEN, "the same under two names"


def test_few_or_equal_pairs_have_no_interval_or_one_without_width() -> None:
    """One seed has no interval; equal differences have one without width, and no test fails."""
    assert difference([0.5], [0.4]).student is None
    same = difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert same.student is not None
    assert same.student.low == same.student.high == pytest.approx(0.1)
    assert wilcoxon([0.5, 0.6], [0.5, 0.6]) == 1.0
    assert wilcoxon([float(n) for n in range(1, 9)], [0.0] * 8) == pytest.approx(2 / 2**8)


CHILD = SimulatedChild(chunks=20)
BEST = CHILD.best_constant_rate()
# As far above the best constant as the reference is below: as good, and so is the same again.
COURSES: dict[str, tuple[Rates, float]] = {
    "reference": (lambda _tau: BEST - 0.1, CHILD.constant_return(BEST - 0.1)),
    "mirror": (lambda _tau: BEST + 0.1, CHILD.constant_return(BEST + 0.1)),
    "same": (lambda _tau: BEST - 0.1, CHILD.constant_return(BEST - 0.1)),
    "best": (lambda _tau: BEST, CHILD.constant_return(BEST)),
    "optimal": (CHILD.best_rate, CHILD.optimal_return()),
    "low": (lambda _tau: 0.15, CHILD.constant_return(0.15)),
}
"""The drop rate's course, and the expected sum of validation scores."""
STUDIES = 100


def _study(rng: np.random.Generator, spec: StudySpec) -> list[Row]:
    """Return a report's rows for children of new seeds, which share their luck, but no noise."""
    luck = rng.normal(0, 0.02, spec.seeds)
    plan, results = Plan(id="s", spec=spec, results=()), []
    for entry in spec.methods:
        for seed in range(spec.seeds):
            child = judged(entry, plan, seed)
            training = replace(child.spec.training, seed=int(rng.integers(2**31)))
            child = replace(child, spec=replace(child.spec, training=training))
            noise = luck[seed] + rng.normal(0, 0.01)
            results.append(result(child, COURSES[entry.name][0], noise=noise))
    return make_rows(spec, results)


def test_a_report_is_right_in_19_of_20_studies() -> None:
    """All its joint intervals hold their truth, and no verdict contradicts it.

    One comparison's verdict by its own interval would be wrong in more than 5% of studies, since
    there are several; and the bootstrap's interval holds the truth in less than 95%.
    """
    spec = StudySpec(
        seeds=5,
        training=TRAINING,
        methods=tuple(Fixed(name=name, method=Method.D) for name in COURSES),
        references=("reference",),
    )
    rng = np.random.default_rng(5)
    zero = COURSES["reference"][1]
    truths = {name: (truth - zero) / CHILD.chunks for name, (_, truth) in COURSES.items()}
    held: dict[str, list[bool]] = {"student": [], "joint": [], "bootstrap": []}
    right: dict[str, list[bool]] = {"student": [], "joint": []}
    for _ in range(STUDIES):
        compared = [
            (one.difference, truths[row.entry.name])
            for row in _study(rng, spec)
            for one in row.beside("reference")
        ]
        assert len(compared) == 10
        for which in ("student", "bootstrap"):
            held[which] += [_holds(found, truth, which) for found, truth in compared]
        held["joint"].append(all(_holds(found, truth, "joint") for found, truth in compared))
        for which, so_far in right.items():
            so_far.append(all(_agrees(found, truth, which) for found, truth in compared))

    assert np.mean(right["joint"]) >= 0.95
    assert np.mean(held["joint"]) >= 0.95
    assert np.mean(right["student"]) < 0.95
    # 1,000 comparisons that depend on one another: two deviations are some 0.03.
    assert np.mean(held["student"]) == pytest.approx(0.95, abs=0.03)
    assert 0.8 < np.mean(held["bootstrap"]) < np.mean(held["student"]) - 0.02


def _holds(found: Difference, truth: float, which: str) -> bool:
    interval = getattr(found, which)
    assert interval is not None
    return bool(interval.low <= truth <= interval.high)


def _agrees(found: Difference, truth: float, which: str) -> bool:
    """Whether what an interval says of a sign is so; saying nothing is never wrong."""
    interval = getattr(found, which)
    assert interval is not None
    sign = np.sign(round(truth, 9))
    return bool((interval.low <= 0 or sign > 0) and (interval.high >= 0 or sign < 0))
