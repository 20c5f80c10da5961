"""Sources of the hyperparameter values of a run's chunks: fixed, or the agent service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from agent_service.client import AgentClient
from agent_service.client import Run as AgentRun
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.domain.problem import Problem
from agent_service.domain.runs import Outcome
from trainer_service.runs.run import RunSpec
from trainer_service.training.chunk import Chunk
from trainer_service.training.spec import fixed_values

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS = "waits for the agent"
"""Prefix of a run's cause while it waits for the agent."""
ATTEMPT_SECONDS = 2.0
"""How long one call is tried before the run reports that it waits, and checks for signals."""


class ValueSource:
    """Decides the values of each chunk: the same for the whole run."""

    def __init__(self, values: Mapping[str, float]) -> None:
        """Use `values` for every chunk."""
        self.values = values
        """Values of the next chunk by hyperparameter."""
        self.policy_version = 0
        """Version of the policy that decided them; 0 without a policy."""

    def report(self, chunk: Chunk) -> None:
        """Report a chunk and update the values for the next; repeating a report is harmless."""

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Report the end of the run."""

    def give_up(self, outcome: Outcome) -> None:
        """Report the end of an aborted run, without waiting for the agent."""


class AgentRetry:
    """Retries calls while the agent is unavailable, up to a limit, and reports the wait."""

    def __init__(
        self, seconds: float, *, notify: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        """Configure the retries.

        Args:
            seconds: how long one call may wait.
            notify: called after each failed attempt with the cause, and with "" after the wait.
            check: called after each failed attempt; may raise to abort the wait.
        """
        self._seconds = seconds
        self._notify = notify
        self._check = check

    def call(self, ask: Callable[[], T]) -> T:
        """Return the result of `ask`; raises Unavailable once the limit is exceeded."""
        gives_up = time.monotonic() + self._seconds
        is_waiting = False
        while True:
            try:
                answer = ask()
                break
            except Unavailable as error:
                if time.monotonic() > gives_up:
                    raise
                self._notify(f"{WAITS}: {error}")
                is_waiting = True
                self._check()
        if is_waiting:
            self._notify("")
        return answer


class _AgentValues(ValueSource):
    """Values decided by the agent service."""

    def __init__(self, start: Callable[[], AgentRun], retry: AgentRetry, *, first: int) -> None:
        """Start or resume the run at the agent, whose chunk 1 is `first` here."""
        self._first = first
        self._retry = retry
        self._run = retry.call(start)
        # A run resumed from a checkpoint reports that chunk first; others begin at the first.
        self._run.start_again()
        self._take_action()

    def _take_action(self) -> None:
        self.values = self._run.hyperparameters
        self.policy_version = int(self._run.action.policy_version)

    def report(self, chunk: Chunk) -> None:
        self._retry.call(
            lambda: self._run.report_chunk(
                chunk.losses,
                training_score=chunk.training_score,
                validation_score=chunk.validation_score,
                chunk=chunk.index - self._first + 1,
            )
        )
        self._take_action()

    def finish(self, outcome: Outcome, score: float | None) -> None:
        self._retry.call(lambda: self._run.finish(outcome, final_score=score))

    def give_up(self, outcome: Outcome) -> None:
        """Report the end once; if the agent is unavailable, its lease ends the run there."""
        try:
            self._run.finish(outcome)
        except AgentError as error:
            log.warning("cannot report to the agent that the run is %s: %s", outcome, error)


def make_value_source(
    agent: AgentClient,
    run_id: str,
    spec: RunSpec,
    retry: AgentRetry,
    *,
    chunks: range,
    problem: Problem,
) -> ValueSource:
    """Return the value source of a run; the agent counts the planned `chunks` from 1."""
    if not spec.controller:
        return ValueSource(fixed_values(spec.training))
    labels = {"method": spec.training.method, "seed": str(spec.training.seed)}
    return _AgentValues(
        lambda: agent.run(
            spec.controller,
            run_id=run_id,
            mode=spec.mode,
            labels=labels,
            planned_chunks=len(chunks),
            problem=problem,
            when_away=None,  # AgentRetry does that here
            is_repeated=True,
        ),
        retry,
        first=chunks.start,
    )
