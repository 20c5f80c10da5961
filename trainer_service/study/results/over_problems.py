"""Statistics of a suite: a method against a reference on each problem, and over all of them.

The question over problems is what a user of the next problem may expect. So the unit is the
problem: of each there is one number, the mean over seeds of the difference seed by seed, and the
interval is that of the mean of these numbers. Seeds alone would answer another question, how sure
the mean on these very problems is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Phase
from trainer_service.study.results.results import Result
from trainer_service.study.results.rows import MOMENTS, paired
from trainer_service.study.results.statistics import (
    Difference,
    Summary,
    Verdict,
    difference,
    summary,
)
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import BEST_DEFAULT, Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResults:
    """What was trained on one problem."""

    name: str
    study: StudySpec
    results: Sequence[Result]

    def judged(self, method: str) -> list[Result]:
        """Return a method's judged results, by seed."""
        found = [r for r in self.results if r.key.method == method and r.key.phase is Phase.JUDGED]
        return sorted(found, key=lambda result: result.key)

    def summary(self, method: str, moment: str) -> Summary | None:
        """Return a method's test scores over seeds; None where none is judged."""
        scores = [MOMENTS[moment](result.finished.scores) for result in self.judged(method)]
        return summary(scores) if scores else None

    def difference(self, method: str, other: str, moment: str) -> Difference | None:
        """Return how far a method is above another, seed by seed; None without a shared seed."""
        ours, theirs = paired(self.judged(method), self.judged(other), MOMENTS[moment])
        return difference(ours, theirs) if ours else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What methods are compared with over problems."""

    name: str
    """The method's, or `best-default`."""
    entries: Mapping[str, Entry]
    """The method, by moment."""

    @property
    def is_chosen(self) -> bool:
        """Whether it is the best default, which was chosen of several."""
        return self.name == BEST_DEFAULT

    def label(self, *moments: str) -> str:
        """Return its name in tables and pictures; of the best default, with which one it is.

        At these moments, or at all; where it is another one at each, that goes unsaid.
        """
        labels = {self.entries[moment].label for moment in moments or self.entries}
        if not self.is_chosen:
            return next(iter(labels))
        return f"best default ({labels.pop()})" if len(labels) == 1 else "best default"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverProblems:
    """A method beside a reference, at one moment."""

    moment: str
    method: Entry
    reference: Reference
    each: Mapping[str, Difference]
    """By problem, its seeds as the unit."""
    difference: Difference
    """Of the problems' mean differences, each problem as the unit."""

    @property
    def ahead(self) -> int:
        """Number of problems on which the problem's own 95% interval is above zero."""
        return self._count(Verdict.AHEAD)

    @property
    def behind(self) -> int:
        """Number of problems on which it is below zero."""
        return self._count(Verdict.BEHIND)

    def _count(self, verdict: Verdict) -> int:
        # A difference of its own has no family, so its verdict is by its own interval.
        return sum(one.verdict is verdict for one in self.each.values())


def references(suite: Suite, problems: Sequence[ProblemResults]) -> list[Reference]:
    """Return what the suite names, and the best default, if there are several."""
    first = suite.problems[0].study
    named = [
        Reference(name=name, entries=dict.fromkeys(MOMENTS, first.entry(name)))
        for name in suite.references
    ]
    best = {moment: best_default(suite, problems, moment) for moment in MOMENTS}
    found = {moment: entry for moment, entry in best.items() if entry is not None}
    if len(found) < len(MOMENTS):
        return named
    return [*named, Reference(name=BEST_DEFAULT, entries=found)]


def best_default(suite: Suite, problems: Sequence[ProblemResults], moment: str) -> Entry | None:
    """Return the constant with the highest mean over problems; None where there are not two.

    Of those fixed beforehand, on the problems on which all of them are judged. It is chosen by test
    scores, so no user could have known it: a reference that is hard to beat.
    """
    entries = [entry for entry in suite.methods if entry.is_constant]
    means = mean_scores(problems, entries, moment)
    if len(means) < 2:
        return None
    return max((e for e in entries if e.name in means), key=lambda entry: means[entry.name])


def mean_scores(
    problems: Sequence[ProblemResults], entries: Sequence[Entry], moment: str
) -> dict[str, float]:
    """Return the mean over problems of each judged method's mean over seeds, by name.

    Of those problems alone on which all of these methods are judged, so that means can be compared;
    empty if there is none.
    """
    names = [entry.name for entry in entries if any(p.judged(entry.name) for p in problems)]
    found = [[p.summary(name, moment) for name in names] for p in problems]
    whole = [[one.mean for one in row if one is not None] for row in found]
    rows = [row for row in whole if len(row) == len(names)]
    if not rows or not names:
        return {}
    return dict(zip(names, map(float, np.mean(rows, axis=0)), strict=True))


def compare_over_problems(suite: Suite, problems: Sequence[ProblemResults]) -> list[OverProblems]:
    """Return each method beside each reference at each moment, where they share a problem."""
    others = references(suite, problems)
    # Of what is planned, not of what is finished: a look before the end makes no easier verdict.
    family = len(others) * (len(suite.methods) - 1) * len(MOMENTS)
    found = [
        _compared(problems, method, reference, moment, family)
        for reference in others
        for method in suite.methods
        for moment in MOMENTS
        if method.name != reference.entries[moment].name
    ]
    return [one for one in found if one is not None]


def _compared(
    problems: Sequence[ProblemResults],
    method: Entry,
    reference: Reference,
    moment: str,
    family: int,
) -> OverProblems | None:
    other = reference.entries[moment].name
    found = {p.name: p.difference(method.name, other, moment) for p in problems}
    each = {name: one for name, one in found.items() if one is not None}
    if not each:
        return None
    means = [one.mean for one in each.values()]
    return OverProblems(
        moment=moment,
        method=method,
        reference=reference,
        each=each,
        difference=difference(means, [0.0] * len(means), family=family),
    )
