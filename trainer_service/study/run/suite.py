"""Runs a suite: the study of each problem, one after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError
from trainer_service.client import TrainerClient
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.run.compare import Comparison
from trainer_service.study.run.part import Part
from trainer_service.study.run.suite_progress import SuiteProgress
from trainer_service.study.suite import Suite, SuiteProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run of a study, or of a suite, ended."""

    is_finished: bool
    """Whether all of it was tried; else the time was up."""
    failed: Mapping[str, AgentError] = field(default_factory=dict)
    """Errors by problem; the others are finished."""

    def failed_in_words(self) -> str:
        """Return which problems failed, and why."""
        causes = "; ".join(f"{name}: {error}" for name, error in self.failed.items())
        return f"not all problems are finished; {causes}"


class SuiteComparison:
    """One suite under way, or a part of it."""

    def __init__(
        self,
        suite: Suite,
        folder: SuiteFolder,
        *,
        agent: AgentClient,
        trainers: Sequence[TrainerClient],
        part: Part,
    ) -> None:
        """Check what is asked for; `open` is to follow. The clients stay the caller's.

        Raises:
            AgentError: what is carried over is not there.
            InvalidArgument: the part is not of this suite.
        """
        part.check(suite)
        self._suite = suite
        self._folder = folder
        self._minutes = part.minutes
        self._chosen = part.chosen(suite)
        self._comparisons = {
            problem.name: Comparison(
                problem.study,
                folder.folder(problem.name),
                agent=agent,
                trainers=trainers,
                part=own,
            )
            for problem, own in self._chosen
        }

    def check_agent(self) -> None:
        """Ask the agent, before anything is written, where a method needs it; raises AgentError."""
        for comparison in self._comparisons.values():
            comparison.check_agent()

    def open(self) -> None:
        """Begin the suite in its folder, which the caller holds; or go on with it.

        Raises:
            AgentError: the folder holds something else.
        """
        self._folder.open(self._suite)

    def run(self, console: Console, ended: Callable[[ResultsFolder], None]) -> Outcome:
        """Run all problems; one that fails does not keep the others from being tried.

        Args:
            console: where its progress is shown.
            ended: is called with a problem's folder whenever one is finished, or has failed.
        """
        finished = {
            problem.name: part.count_finished(
                problem.study, self._folder.folder(problem.name).results()
            )
            for problem, part in self._chosen
        }
        progress = SuiteProgress(console, self._chosen, finished)
        end = math.inf if self._minutes is None else time.monotonic() + self._minutes * 60
        failed: dict[str, AgentError] = {}
        for problem, _part in self._chosen:
            minutes = (end - time.monotonic()) / 60
            if minutes <= 0:
                return Outcome(is_finished=False, failed=failed)
            progress.begins(problem.name)
            try:
                if not self._run_problem(problem, progress, minutes):
                    return Outcome(is_finished=False, failed=failed)
            except AgentError as error:
                failed[problem.name] = error
                progress.failed(problem.name, error)
            ended(self._folder.folder(problem.name))
        self._folder.remove_unbegun()
        return Outcome(is_finished=True, failed=failed)

    def _run_problem(self, problem: SuiteProblem, progress: SuiteProgress, minutes: float) -> bool:
        """Run a problem's study; return whether it is finished, else its time was up."""
        comparison = self._comparisons[problem.name]
        with self._folder.folder(problem.name).held():
            comparison.open()
            with progress.study(problem.name) as shown:
                return comparison.run(shown, minutes=None if minutes == math.inf else minutes)
