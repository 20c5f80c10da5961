"""Children of a study, and the results so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from agent_service.domain.checks import check_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import NAME
from trainer_service.runs.run import RunSpec

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.spec import StudySpec

TUNING_SEEDS = 1000
"""First seed of children that searches and controllers train; judged ones start at 0."""
LONGEST_NAME = 40
"""Characters of a method's name: the controller's name includes the study's id, too."""


class Phase(StrEnum):
    """Purpose of a child."""

    TUNING = "tuning"
    """For a search or a controller to choose or learn from; it is not judged."""
    JUDGED = "judged"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """Identifies a child of a study."""

    method: str
    """The method's name in the study."""
    phase: Phase
    index: int
    """From 0: a judged child's seed, a tuning child's place in the budget."""

    def __post_init__(self) -> None:
        """Check the name, since files are named after it; raises InvalidArgument."""
        check_name(self.method, NAME, longest=LONGEST_NAME, field="key.method")
        if self.index < 0:
            raise invalid("key.index", f"{self.index} must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child that a study trains."""

    key: Key
    run_id: str
    """The same at both services."""
    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study and its results so far; these determine all of its children."""

    id: str
    """Prefix of the names of its runs and controllers."""
    spec: StudySpec
    results: Sequence[Result]
    """Finished runs, in any order."""
    policy: Callable[[str], bytes | None] = lambda _method: None
    """Reads the frozen policy of a method; None if it has none."""

    def finished(self, method: str, phase: Phase) -> list[Result]:
        """Return the results of a method in a phase, in order."""
        found = [r for r in self.results if r.key.method == method and r.key.phase is phase]
        return sorted(found, key=lambda result: result.key)

    def child(self, method: str, phase: Phase, index: int, run: RunSpec) -> Child:
        """Return a child of a method, with the given run."""
        key = Key(method=method, phase=phase, index=index)
        # Grad-CAM shows one judged child of each method.
        is_kept = phase is Phase.JUDGED and index == 0
        run_id = f"{self.id}-{method}-{phase}-{index}"
        return Child(key=key, run_id=run_id, spec=replace(run, keep=is_kept))

    def tuning(self, method: str) -> list[Child]:
        """Return the children that a method trains before judging."""
        runs = self.spec.entry(method).tuning(self)
        return [self.child(method, Phase.TUNING, i, run) for i, run in enumerate(runs)]

    def controller(self, method: str, seed: int | None = None) -> str:
        """Return the name of a method's controller; replays have one for each seed."""
        return f"{self.id}-{method}" + ("" if seed is None else f"-{seed}")
