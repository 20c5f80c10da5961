"""Who decides the values that a run's chunks train under: nobody, or the agent service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from agent_service.client import AgentClient
from agent_service.client import Run as AgentRun
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.domain.runs import Outcome
from trainer_service.run import RunSpec
from trainer_service.training.chunk import Chunk
from trainer_service.training.spec import fixed_values

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS = "waits for the agent"
"""How the cause begins of a run that waits."""
ATTEMPT_SECONDS = 2.0
"""For how long the agent is tried before the run says that it waits, and looks for signals."""


class Steering(Protocol):
    """Who decides the values of the next chunk."""

    values: Mapping[str, float]
    """What the next chunk runs under."""
    policy_version: int
    """That decided them; 0 without a policy."""

    def report(self, chunk: Chunk) -> None:
        """Tell a chunk, or one that was told before again, and take the values for the next."""
        ...

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Tell the end."""
        ...

    def give_up(self, outcome: Outcome) -> None:
        """Tell the end of a run that is cut, if anybody listens."""
        ...


class FixedSteering:
    """The same values for the whole run."""

    policy_version = 0

    def __init__(self, values: Mapping[str, float]) -> None:
        """Keep the values."""
        self.values = values

    def report(self, chunk: Chunk) -> None:
        """Change nothing."""

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Tell nobody."""

    def give_up(self, outcome: Outcome) -> None:
        """Tell nobody."""


class Patience:
    """Waits for an agent that is away: in sight of all, and not for ever."""

    def __init__(
        self, seconds: float, *, tell: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        """Wait as this says.

        Args:
            seconds: how long one call may wait.
            tell: told each time why the run waits, and an empty text once it waits no more.
            check: raises where this process should do something else.
        """
        self._seconds = seconds
        self._tell = tell
        self._check = check

    def call(self, ask: Callable[[], T]) -> T:
        """Return what the agent answers; raises Unavailable where it was away for too long."""
        gives_up = time.monotonic() + self._seconds
        is_waiting = False
        while True:
            try:
                answer = ask()
                break
            except Unavailable as error:
                if time.monotonic() > gives_up:
                    raise
                self._tell(f"{WAITS}: {error}")
                is_waiting = True
                self._check()
        if is_waiting:
            self._tell("")
        return answer


class AgentSteering:
    """The agent service decides."""

    def __init__(self, start: Callable[[], AgentRun], patience: Patience, *, first: int) -> None:
        """Start the run there, or take it up where it was started before.

        Args:
            start: starts it.
            patience: with an agent that is away.
            first: index of the run's first chunk, which is the agent's chunk 1.
        """
        self._first = first
        self._patience = patience
        self._run = patience.call(start)
        # What goes on from a checkpoint reports that chunk first; all else begins at the first one.
        self._run.start_again()
        self._take_action()

    def _take_action(self) -> None:
        self.values: Mapping[str, float] = self._run.hyperparameters
        self.policy_version = int(self._run.action.policy_version)

    def report(self, chunk: Chunk) -> None:
        """Report the chunk, and take the values that the agent decides."""
        self._patience.call(
            lambda: self._run.report_chunk(
                chunk.losses,
                training_score=chunk.training_score,
                validation_score=chunk.validation_score,
                chunk=chunk.index - self._first + 1,
            )
        )
        self._take_action()

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Finish the run at the agent."""
        self._patience.call(lambda: self._run.finish(outcome, final_score=score))

    def give_up(self, outcome: Outcome) -> None:
        """Tell the end once; where the agent is away, its lease ends the run there."""
        try:
            self._run.finish(outcome)
        except AgentError as error:
            log.warning("the agent was not told that the run is %s: %s", outcome, error)


def make_steering(
    agent: AgentClient, run_id: str, spec: RunSpec, patience: Patience, *, chunks: range
) -> Steering:
    """Return who decides for a run; its id is the same at the agent.

    Args:
        agent: the agent service.
        run_id: the run.
        spec: what decides the run.
        patience: with an agent that is away.
        chunks: indices of those that the run plans. At the agent it is a run of its own, whose
            chunks count from 1.
    """
    if not spec.controller:
        return FixedSteering(fixed_values(spec.training))
    labels = {"method": spec.training.method.value, "seed": str(spec.training.seed)}
    return AgentSteering(
        lambda: agent.run(
            spec.controller,
            run_id=run_id,
            mode=spec.mode,
            labels=labels,
            planned_chunks=len(chunks),
            when_away=None,  # the patience above is this service's own
            is_repeated=True,
        ),
        patience,
        first=chunks.start,
    )
