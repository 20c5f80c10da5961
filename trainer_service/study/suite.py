"""Suites: the same methods compared on several problems, each problem a study of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent_service.domain.checks import check_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import NAME
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import LONGEST_NAME
from trainer_service.study.spec import StudySpec, names_of

MAX_PROBLEMS = 200
"""More are no table that anybody reads."""
BEST_DEFAULT = "best-default"
"""Reference of every suite: the best of the constants that were fixed beforehand."""
PICTURES = "pictures"
"""Folder of a report's pictures, beside those of the problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteProblem:
    """One problem of a suite."""

    name: str
    """Form as a method's; unique in the suite, and the folder of its study."""
    study: StudySpec
    """The suite's methods on this problem."""

    def __post_init__(self) -> None:
        """Check the name; raises InvalidArgument."""
        check_name(self.name, NAME, longest=LONGEST_NAME)
        if self.name == PICTURES:
            raise invalid("name", f"{PICTURES} is the folder of the report's pictures; rename it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The same methods on several problems; raises InvalidArgument naming the wrong field."""

    title: str = ""
    """Title of its report; empty takes the number of problems."""
    problems: tuple[SuiteProblem, ...]
    """In the order in which they are trained and shown."""

    def __post_init__(self) -> None:
        """Check that names differ, and that all problems have the same methods."""
        if not self.problems:
            raise invalid("problems", "is empty; name at least one")
        if len(self.problems) > MAX_PROBLEMS:
            count = len(self.problems)
            raise invalid("problems", f"{count} are too many; compare at most {MAX_PROBLEMS}")
        for place, problem in enumerate(self.problems):
            if problem.name in self.names[:place]:
                raise invalid(
                    f"problems[{place}].name",
                    f"{problem.name!r} is there twice; give each problem a name of its own",
                )
            if _compared(problem.study) != _compared(self.problems[0].study):
                raise invalid(
                    f"problems[{place}].study",
                    "has other methods, budget or comparisons than the first; give it the same",
                )
        for place, name in enumerate(names_of(self.problems[0].study)):
            if name == BEST_DEFAULT:
                raise invalid(
                    f"methods[{place}].name",
                    f"{BEST_DEFAULT} is what reports call the best constant; give another",
                )

    @property
    def names(self) -> list[str]:
        """Names of the problems, in order."""
        return [problem.name for problem in self.problems]

    @property
    def methods(self) -> Sequence[Entry]:
        """The methods, the same on every problem."""
        return self.problems[0].study.methods

    @property
    def references(self) -> Sequence[str]:
        """Names of the methods that all others are compared with."""
        return self.problems[0].study.references

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the methods that are shown problem by problem.

        Those that are tested; else the first that is no reference, or the first.
        """
        names = names_of(self.problems[0].study)
        others = [name for name in names if name not in self.references]
        return self.problems[0].study.tests or tuple((others or names)[:1])

    def goes_on_with(self, other: Suite) -> bool:
        """Whether all that `other` trains is trained under this suite, too, and alike."""
        studies = {problem.name: problem.study for problem in self.problems}
        return all(
            problem.name in studies and studies[problem.name].goes_on_with(problem.study)
            for problem in other.problems
        )


def _compared(study: StudySpec) -> tuple[object, ...]:
    return study.methods, study.budget, study.references, study.tests
