"""Outcomes carried over from another study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from agent_service.domain.errors import invalid
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.entry import Entry, Studies
from trainer_service.study.methods.plan import Plan

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried(Entry):
    """A constant or frozen policy of another study, on this study's children."""

    kind: Literal["carried"] = "carried"
    study: str
    """The other study's results folder."""
    of: str
    """Its method: a search for a constant, or a learned policy."""

    @property
    def origin(self) -> str:
        """The other study and its method."""
        return f"{self.study}: {self.of}"

    def compared_with(self, study: StudySpec) -> list[str]:
        """Return the searches for a constant of this study."""
        return [entry.name for entry in study.methods if entry.is_search]

    def children_before(self, study: StudySpec, tuned: int) -> str:
        """Say that they belong to another study."""
        return "elsewhere"

    def _taken(self, study: StudySpec, there: Plan) -> Entry:
        """Return the outcome as a method of this study.

        Raises:
            InvalidArgument: the other study has no such method, or has not finished it, or its
                chunk size differs.
        """
        found = there.spec.find(self.of)
        if found is None:
            raise invalid("of", f"{self.of!r} is no method of {self.study}")
        return found.carried(self, there, study)

    def asks_agent(self, study: StudySpec, studies: Studies) -> bool:
        """Return whether it is a policy."""
        return self._taken(study, studies(self.study)).needs_agent

    def judge(self, work: Work) -> list[Result]:
        """Judge the outcome as a method of this study."""
        there = work.studies(self.study)
        taken = self._taken(work.plan.spec, there)
        policy = there.policy(self.of)
        if policy is not None:
            work.folder.add_policy(self.name, policy)
        return taken.judge(work)

    def planned(self, plan: Plan, result: Result) -> RunSpec | None:
        """Return this study's training with the method and values of the result."""
        had = result.spec.training
        training = replace(
            plan.spec.training,
            method=had.method,
            sites=had.sites,
            values=had.values,
            seed=result.key.index,
        )
        return replace(result.spec, training=training)
