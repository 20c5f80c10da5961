"""What another study came to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from agent_service.domain.errors import invalid
from trainer_service.run import RunSpec
from trainer_service.study.methods.entry import Entry, Studies
from trainer_service.study.methods.plan import Plan

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried(Entry):
    """What another study chose or learned, frozen, on this study's children."""

    kind: Literal["carried"] = "carried"
    study: str
    """The other study's folder of results."""
    of: str
    """Its entry: a constant that was searched for, or a learned policy."""

    @property
    def origin(self) -> str:
        """The other study, and its method."""
        return f"{self.study}: {self.of}"

    def compared_with(self, study: StudySpec) -> list[str]:
        """Return each search for a constant of this study."""
        return [entry.name for entry in study.methods if entry.is_search]

    def children_before(self, study: StudySpec, tuned: int) -> str:
        """Say that they are another study's."""
        return "elsewhere"

    def _taken(self, study: StudySpec, there: Plan) -> Entry:
        """Return the method as one of this study.

        Raises:
            InvalidArgument: the other study has none, has not finished it, or has other chunks.
        """
        found = there.spec.find(self.of)
        if found is None:
            raise invalid("of", f"{self.of!r} is no method of {self.study}")
        return found.carried(self, there, study)

    def asks_agent(self, study: StudySpec, studies: Studies) -> bool:
        """Return whether a policy is carried over."""
        return self._taken(study, studies(self.study)).needs_agent

    def judge(self, work: Work) -> list[Result]:
        """Judge it as the method of this study that it comes to."""
        there = work.studies(self.study)
        taken = self._taken(work.plan.spec, there)
        policy = there.policy(self.of)
        if policy is not None:
            work.folder.add_policy(self.name, policy)
        return taken.judge(work)

    def planned(self, plan: Plan, result: Result) -> RunSpec | None:
        """Return the study's own training under what was carried over, as the result tells it."""
        had = result.spec.training
        training = replace(
            plan.spec.training,
            method=had.method,
            sites=had.sites,
            values=had.values,
            seed=result.key.index,
        )
        return replace(result.spec, training=training)
