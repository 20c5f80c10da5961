"""What a method of a study is tuned and judged with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from agent_service.domain.errors import AgentError
from trainer_service.study.methods.entry import Studies
from trainer_service.study.methods.plan import Phase, Plan
from trainer_service.study.results.results import Result, ResultsFolder
from trainer_service.study.run.children import Children
from trainer_service.study.run.controllers import Controllers


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One method's part of a study that is run."""

    method: str
    """Its name."""
    begun: Plan
    """The study without results."""
    seeds: Sequence[int]
    """That are judged."""
    folder: ResultsFolder
    children: Children
    controllers: Controllers
    studies: Studies
    others: Mapping[str, Future[list[Result]]]
    """Judged results of methods before it, some of them still to come."""

    @property
    def plan(self) -> Plan:
        """The study as far as it has come."""
        return replace(self.begun, results=self.children.results())

    def judged(self, source: str) -> list[Result]:
        """Return all judged runs of the method that this one is made of; waits for them.

        Raises:
            AgentError: they are not all there, and not of this part.
        """
        if source in self.others:
            self.others[source].result()
        count = self.begun.spec.seeds
        found = self.plan.finished(source, Phase.JUDGED)
        if len(found) < count:
            raise AgentError(
                f"{self.method} needs all {count} judged runs of {source}, and {len(found)} are "
                f"finished; run {source} first, or leave {self.method} out of this part"
            )
        return found
