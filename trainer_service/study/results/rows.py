"""Evaluation of a study's results: a row per method, with differences to the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agent_service.domain.rewards import course_of_rewards
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Phase
from trainer_service.study.results.results import Result
from trainer_service.study.results.statistics import (
    Difference,
    Summary,
    difference,
    holm,
    summary,
    wilcoxon,
)
from trainer_service.study.spec import StudySpec
from trainer_service.training.chunk import FinalScores

Score = Callable[[FinalScores], float]

MOMENTS: Mapping[str, Score] = {
    "best epoch": lambda scores: scores.test_score_best,
    "last epoch": lambda scores: scores.test_score_last,
}
"""When the test score is taken: with the weights of the best validation epoch, or the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A method beside one reference, at one moment."""

    moment: str
    reference: Entry
    difference: Difference
    p: float | None
    """Wilcoxon's, corrected for all tests of the study at this moment; None where not tested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method of a study that has been judged."""

    entry: Entry
    judged: tuple[Result, ...]
    """By seed, at least one."""
    tuning: tuple[Result, ...]
    """In the order of the budget."""
    scores: Mapping[str, Summary]
    """By moment."""
    compared: tuple[Compared, ...]

    def beside(self, name: str) -> list[Compared]:
        """Return its comparison with the named method at each moment; empty if there is none."""
        return [compared for compared in self.compared if compared.reference.name == name]

    @property
    def values(self) -> Mapping[str, float]:
        """Mean of what its judged children trained under, by hyperparameter."""
        traces = [result.trace.values for result in self.judged if result.trace.training_loss]
        names = traces[0] if traces else {}
        return {name: float(np.mean([np.mean(trace[name]) for trace in traces])) for name in names}

    @property
    def strength(self) -> str:
        """Name of the hyperparameter that drives all sites of its children."""
        return self.judged[0].spec.training.regularizer.strength.name

    def rewards(self, result: Result) -> list[float]:
        """Return what each chunk of one of its runs earned."""
        trace = result.trace
        return course_of_rewards(
            self.entry.reward, training=trace.training_score, validation=trace.validation_score
        )


def comparisons(spec: StudySpec) -> list[tuple[str, str]]:
    """Return the pairs of names that a report compares, each once.

    Every method with each reference; what was taken from a policy with the policy itself; what was
    carried over from another study with each constant that was searched for in this one.
    """
    pairs = [(e.name, name) for name in spec.references for e in spec.methods if e.name != name]
    pairs += [(e.name, name) for e in spec.methods for name in e.compared_with(spec)]
    return list(dict.fromkeys(pairs))


def make_rows(spec: StudySpec, results: Sequence[Result]) -> list[Row]:
    """Return a row for each method that has a judged run, in the study's order."""
    judged = {entry.name: _of(entry, Phase.JUDGED, results) for entry in spec.methods}
    tests = _tests(spec, judged)
    return [
        Row(
            entry=entry,
            judged=tuple(judged[entry.name]),
            tuning=tuple(_of(entry, Phase.TUNING, results)),
            scores={
                moment: summary([score(r.finished.scores) for r in judged[entry.name]])
                for moment, score in MOMENTS.items()
            },
            compared=tuple(_compared(entry, spec, judged, tests)),
        )
        for entry in spec.methods
        if judged[entry.name]
    ]


def _of(entry: Entry, phase: Phase, results: Sequence[Result]) -> list[Result]:
    found = [r for r in results if r.key.method == entry.name and r.key.phase is phase]
    return sorted(found, key=lambda result: result.key)


def paired(ours: Sequence[Result], theirs: Sequence[Result], score: Score) -> list[list[float]]:
    """Return the scores of those seeds that both have: two lists in the same order."""
    seeds = sorted({r.key.index for r in ours} & {r.key.index for r in theirs})
    return [
        [score(by_seed[seed].finished.scores) for seed in seeds]
        for by_seed in ({r.key.index: r for r in side} for side in (ours, theirs))
    ]


def _compared(
    entry: Entry,
    spec: StudySpec,
    judged: Mapping[str, Sequence[Result]],
    tests: Mapping[tuple[str, str, str], float],
) -> list[Compared]:
    pairs = comparisons(spec)
    # Of what is planned, not of what is finished: a look before the end makes no easier verdict.
    family = len(pairs) * len(MOMENTS)
    found = []
    for other in [other for name, other in pairs if name == entry.name]:
        for moment, score in MOMENTS.items():
            ours, theirs = paired(judged[entry.name], judged[other], score)
            if ours:
                found.append(
                    Compared(
                        moment=moment,
                        reference=spec.entry(other),
                        difference=difference(ours, theirs, family=family),
                        p=tests.get((entry.name, other, moment)),
                    )
                )
    return found


def _tests(
    spec: StudySpec, judged: Mapping[str, Sequence[Result]]
) -> dict[tuple[str, str, str], float]:
    """Return corrected p by method, reference and moment; none until all their runs are there."""
    corrected = {}
    for moment, score in MOMENTS.items():
        pairs = [paired(judged[name], judged[other], score) for name, other in spec.tested]
        if any(len(ours) < spec.seeds for ours, _theirs in pairs):
            continue
        values = holm([wilcoxon(ours, theirs) for ours, theirs in pairs])
        for (name, other), value in zip(spec.tested, values, strict=True):
            corrected[name, other, moment] = value
    return corrected
