"""What is said over problems: problems are the unit, and the numbers are those of the textbook."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.trainer_service.study.simulated import TRAINING, judged, result
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import Plan
from trainer_service.study.methods.searches import Grid
from trainer_service.study.results.over_problems import (
    OverProblems,
    ProblemResults,
    best_default,
    compare_over_problems,
    mean_scores,
)
from trainer_service.study.results.results import Result
from trainer_service.study.results.statistics import Verdict
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import BEST_DEFAULT, Suite, SuiteProblem

OURS = Grid(name="ours", values=(0.1, 0.2))
METHODS: tuple[Entry, ...] = (
    OURS,
    Fixed(name="vanilla", title="Vanilla", method="vanilla"),
    Fixed(name="d", title="D", method="d"),
    Fixed(name="dni", title="DNI", method="dni"),
)
STUDY = StudySpec(seeds=3, training=TRAINING, methods=METHODS, references=("d",))
SUITE = Suite(problems=tuple(SuiteProblem(name=name, study=STUDY) for name in ("a", "b", "c")))

Scores = Mapping[str, Sequence[float]]
"""Test scores of seeds 0, 1, ... by method, at the best epoch; 0.01 less at the last."""


def trained(name: str, scores: Scores) -> ProblemResults:
    results = [
        scored(STUDY.entry(method), seed, score)
        for method, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]
    return ProblemResults(name=name, study=STUDY, results=results)


def scored(entry: Entry, seed: int, score: float) -> Result:
    """Return a judged result with a test score; only that counts here."""
    plan = Plan(id="s", spec=STUDY, results=())
    stand_in = replace(METHODS[1], name=entry.name)
    made = result(judged(stand_in, plan, seed), lambda _tau: 0.0)
    scores = replace(
        made.finished.scores, test_score_best=score, test_score_last=score - 0.01 * (seed + 1)
    )
    return replace(made, finished=replace(made.finished, scores=scores))


PROBLEMS = [
    trained("a", {"ours": [0.60, 0.71, 0.82], "d": [0.50, 0.60, 0.70], "vanilla": [0.4] * 3}),
    trained("b", {"ours": [0.60, 0.50, 0.80], "d": [0.50, 0.50, 0.60], "vanilla": [0.7] * 3}),
    # Its third seed is not there yet for one of them.
    trained("c", {"ours": [0.40, 0.31], "d": [0.50, 0.42, 0.9], "vanilla": [0.3] * 3}),
]


def found(problems: Sequence[ProblemResults], reference: str, moment: str) -> OverProblems:
    (one,) = [
        one
        for one in compare_over_problems(SUITE, problems)
        if (one.method.name, one.reference.name, one.moment) == ("ours", reference, moment)
    ]
    return one


@pytest.mark.parametrize("moment", ["best epoch", "last epoch"])
def test_problems_are_the_unit(moment: str) -> None:
    """Differences 0.11, 0.1 and -0.105: their mean, and Student's interval with two degrees."""
    means = [0.11, 0.1, -0.105]
    one = found(PROBLEMS, "d", moment)

    assert [each.mean for each in one.each.values()] == pytest.approx(means)
    assert [each.count for each in one.each.values()] == [3, 3, 2], "seeds that both have"
    assert one.difference.count == 3
    assert one.difference.mean == pytest.approx(0.035)
    half = 4.302653 * np.std(means, ddof=1) / np.sqrt(3)
    assert one.difference.student is not None
    assert (one.difference.student.low, one.difference.student.high) == pytest.approx(
        (0.035 - half, 0.035 + half), abs=1e-6
    )
    # Two references, three methods beside each, two moments.
    joint = stats.t.interval(1 - 0.05 / 12, 2, 0.035, stats.sem(means))
    assert one.difference.joint is not None
    assert (one.difference.joint.low, one.difference.joint.high) == pytest.approx(joint)
    drawn = stats.bootstrap((means,), np.mean, method="BCa", n_resamples=9999, rng=0)
    assert one.difference.bootstrap is not None
    assert one.difference.bootstrap.low == pytest.approx(drawn.confidence_interval.low)
    assert one.difference.verdict is Verdict.OPEN


def test_problems_are_counted_by_their_own_intervals() -> None:
    """0.10, 0.11, 0.12 is ahead; 0.1, 0.0, 0.2 is open; two seeds that agree are too few."""
    one = found(PROBLEMS, "d", "best epoch")
    assert (one.ahead, one.behind) == (1, 0)

    turned = [
        trained(p.name, {"ours": scores(p, "d"), "d": scores(p, "ours"), "vanilla": [0.1] * 3})
        for p in PROBLEMS
    ]
    one = found(turned, "d", "best epoch")
    assert (one.ahead, one.behind) == (0, 1)


def scores(problem: ProblemResults, method: str) -> list[float]:
    return [r.finished.scores.test_score_best for r in problem.judged(method)]


def test_the_best_default_is_the_best_constant_over_all_problems() -> None:
    """Means 0.47 of Vanilla and 0.58 of D; no search counts, and nothing that the loss trains."""
    everywhere = [
        replace(p, results=[*p.results, *(scored(METHODS[3], seed, 0.99) for seed in range(3))])
        for p in PROBLEMS
    ]
    means = mean_scores(everywhere, METHODS, "best epoch")
    assert means["vanilla"] == pytest.approx((0.4 + 0.7 + 0.3) / 3)
    assert means["ours"] == pytest.approx((0.71 + 1.9 / 3 + 0.355) / 3)
    best = best_default(SUITE, everywhere, "best epoch")
    assert best is not None
    assert best.name == "d"

    # On `b` alone, where both constants are judged, it is the other one.
    part = [trained("a", {"ours": [0.5], "d": [0.9]}), PROBLEMS[1]]
    best = best_default(SUITE, part, "best epoch")
    assert best is not None
    assert best.name == "vanilla"
    one = found(part, BEST_DEFAULT, "best epoch")
    assert one.reference.label() == "best default (Vanilla)"
    assert list(one.each) == ["b"]
    assert one.difference.student is None, "one problem has no interval"
    assert one.difference.verdict is Verdict.TOO_FEW
    assert best_default(SUITE, part[:1], "best epoch") is None
