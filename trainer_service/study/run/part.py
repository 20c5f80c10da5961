"""Which part of a study, or of a suite, is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent_service.domain.errors import invalid
from trainer_service.study.methods.entry import Entry
from trainer_service.study.results.results import Result
from trainer_service.study.spec import StudySpec, names_of
from trainer_service.study.suite import Suite, SuiteProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a study is run; all of it by default."""

    only: tuple[str, ...] = ()
    """Names of methods; empty for all."""
    seeds: tuple[int, ...] = ()
    """Seeds that are judged; empty for all."""
    problems: tuple[str, ...] = ()
    """Names of a suite's problems; empty for all."""
    minutes: float | None = None
    """After which the study stops; None for never."""

    def check(self, spec: StudySpec | Suite) -> None:
        """Check the part against what it is of; raises InvalidArgument naming the option."""
        studies = [p.study for p in spec.problems] if isinstance(spec, Suite) else [spec]
        methods, seeds = names_of(studies[0]), max(study.seeds for study in studies)
        problems = spec.names if isinstance(spec, Suite) else []
        for name in self.only:
            if name not in methods:
                raise invalid("only", f"{name!r} is not one of the methods: {', '.join(methods)}")
        for seed in self.seeds:
            if not 0 <= seed < seeds:
                raise invalid("only_seeds", f"{seed} is not in [0, {seeds - 1}]")
        for name in self.problems:
            if name not in problems:
                known = f"one of the problems: {', '.join(problems)}"
                text = f"{name!r} is not {known if problems else 'there: the study has none'}"
                raise invalid("only_problems", text)
        if self.minutes is not None and not self.minutes > 0:
            raise invalid("minutes", f"{self.minutes} must be above 0")

    def methods(self, spec: StudySpec) -> list[Entry]:
        """Return the methods of this part, in the study's order."""
        return [entry for entry in spec.methods if not self.only or entry.name in self.only]

    def judged(self, spec: StudySpec) -> list[int]:
        """Return the seeds of this part."""
        return sorted(set(self.seeds)) or list(range(spec.seeds))

    def planned_runs(self, spec: StudySpec) -> dict[str, tuple[str, int]]:
        """Return label and number of runs of each method of this part, by name."""
        judged = len(self.judged(spec))
        return {e.name: (e.label, e.tuned_children(spec) + judged) for e in self.methods(spec)}

    def count_finished(self, spec: StudySpec, results: Iterable[Result]) -> int:
        """Return how many of its runs are finished."""
        methods, seeds = {entry.name for entry in self.methods(spec)}, self.judged(spec)
        return sum(
            r.key.method in methods and (not r.is_judged or r.key.index in seeds) for r in results
        )

    def chosen(self, suite: Suite) -> list[tuple[SuiteProblem, Part]]:
        """Return the problems of this part, in order, and the part of each; all without a limit.

        A problem that has none of the part's seeds is left out.
        """
        found = []
        for problem in suite.problems:
            seeds = tuple(seed for seed in self.seeds if seed < problem.study.seeds)
            is_named = not self.problems or problem.name in self.problems
            if is_named and bool(seeds) == bool(self.seeds):
                found.append((problem, replace(self, seeds=seeds, problems=(), minutes=None)))
        return found


WHOLE = Part()
"""All of a study."""
