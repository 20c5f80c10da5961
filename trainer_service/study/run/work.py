"""The context in which a method of a study is tuned and judged."""

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
    """Services, results and seeds for one method of a running study."""

    method: str
    """The method's name."""
    begun: Plan
    """The study, without results."""
    seeds: Sequence[int]
    """Seeds to judge."""
    folder: ResultsFolder
    children: Children
    controllers: Controllers
    studies: Studies
    others: Mapping[str, Future[list[Result]]]
    """Judged results of the methods started before, perhaps pending."""

    @property
    def plan(self) -> Plan:
        """The study with the results so far."""
        return replace(self.begun, results=self.children.results())

    def judged(self, source: str) -> list[Result]:
        """Wait for all judged results of another method, and return them.

        Raises:
            AgentError: some are missing and not part of this run.
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
