"""Ports: what the rules of a run need from outside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar, Union

from agent_service.domain.retention import Retention
from agent_service.domain.runs import (
    Appended,
    Choice,
    Controller,
    Decision,
    Mode,
    Outcome,
    Run,
    RunState,
    StartRun,
    Transition,
    Use,
)
from agent_service.domain.specs import ControllerSpec

if TYPE_CHECKING:
    import numpy as np

    from agent_service.domain.trials import TrialHistory

# NumPy is imported inside functions alone: the client imports this, and half of what that took in a
# script that needs no NumPy was NumPy.

T = TypeVar("T")


class Policy(Protocol):
    """One version of a learned policy, ready to decide."""

    def mean(self, observation: np.ndarray) -> np.ndarray:
        """Return the mean action, float64[h] in the policy's own range.

        Args:
            observation: the state and the context, float64[N + c].
        """
        ...

    def sample(self, observation: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the action for standard normal `noise` [h], unclipped, and its log probability."""
        ...


AnyPolicy = Union[Policy, "TrialHistory"]  # `|` takes no name in quotes
"""What a stored policy version is: a policy of states, or the trials that one value comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision may depend on, beside the controller's spec."""

    run_id: str
    chunk: int
    """Index, from 1, of the chunk that the action is for."""
    observation: np.ndarray
    """S_t, zeros for the first chunk, then the context: float64[N + c]; see `observations`."""
    mode: Mode
    previous: Choice | None
    """A_{t-1}, the choice that the reported chunk ran under; None for the first chunk."""
    policy: AnyPolicy | None
    """The policy version to decide by; None where the algorithm has none."""


class Origin(StrEnum):
    """How a policy version came to be."""

    INITIAL = "initial"
    """With its controller."""
    LEARNED = "learned"
    """By an update from transitions, or by the end of a run from its final score."""
    IMPORTED = "imported"
    """From a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """A stored policy version."""

    version: int
    data: bytes
    """As `learning.policies` made or accepted it."""
    origin: Origin
    learned_transitions: int = 0
    """Transitions that the update which made it learned from."""
    statistics: Mapping[str, float]
    """Of the update that made it; empty for versions that were not learned."""
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """A policy version as it is listed: all but its data, which may be large."""

    version: int
    size: int
    """Bytes of the data."""
    origin: Origin
    learned_transitions: int
    statistics: Mapping[str, float]
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of a controller's runs and transitions."""

    runs: Mapping[RunState, int]
    """In each state; without those that are archived."""
    outcomes: Mapping[Outcome, int]
    """Finished runs by how they ended."""
    ready: int
    """Transitions that wait for an update."""
    learned: int
    """Transitions that updates took; with those that are archived, as all counts that only grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnableTransition:
    """A transition that is ready to be learned from."""

    transition: Transition
    ends_episode: bool
    """Whether its run terminated with it, so that nothing is bootstrapped after it."""


class Session(Retention, Protocol):
    """One transaction: sees all that was committed, and its own changes."""

    def find_controller(self, name: str) -> Controller | None:
        """Return the controller of this name, deleted ones too."""
        ...

    def list_controllers(self, *, after: str, limit: int) -> Iterator[Controller]:
        """Yield controllers that are not deleted, by name, after the name `after`.

        Each is read as it is asked for.
        """
        ...

    def newer_controllers(self, *, than: int) -> Iterator[Controller]:
        """Yield controllers whose ids are above `than`, by id, each read as it is asked for."""
        ...

    def learning_controllers(self, ids: Collection[int]) -> Sequence[Controller]:
        """Return those of these ids that learn, neither frozen nor deleted; reads no others."""
        ...

    def has_controllers(self, *, count: int) -> bool:
        """Return whether at least so many controllers are not deleted."""
        ...

    def add_controller(self, spec: ControllerSpec, *, mode: Mode, now: float) -> Controller:
        """Store a new controller."""
        ...

    def set_mode(self, controller: Controller, mode: Mode) -> None:
        """Store a controller's mode."""
        ...

    def delete_controller(self, controller: Controller, *, now: float) -> None:
        """Mark a controller as deleted."""
        ...

    def usage(self, controller: Controller) -> Usage:
        """Return the counts of its runs and transitions."""
        ...

    def count_recorded(self, controller: Controller) -> int:
        """Return how many of its transitions are kept only, archived ones too; reads each."""
        ...

    def add_policy(self, controller: Controller, policy: PolicyVersion) -> None:
        """Store a policy version and make it the controller's newest."""
        ...

    def find_policy(self, controller: Controller, version: int) -> PolicyVersion | None:
        """Return one policy version."""
        ...

    def list_policies(
        self, controller: Controller, *, before: int | None, limit: int
    ) -> Sequence[PolicyEntry]:
        """Return policy versions, newest first, those below `before`; reads no data."""
        ...

    def find_run(self, run_id: str) -> Run | None:
        """Return one run."""
        ...

    def list_runs(
        self,
        *,
        controller: str,
        state: RunState | None,
        labels: Mapping[str, str],
        before: int | None,
        limit: int,
    ) -> Iterator[Run]:
        """Yield runs, newest first, with keys below `before`."""
        ...

    def has_active_runs(self, *, count: int) -> bool:
        """Return whether at least so many runs are active."""
        ...

    def add_run(
        self,
        start: StartRun,
        controller: Controller,
        *,
        mode: Mode,
        pinned_version: int | None,
        now: float,
    ) -> Run:
        """Store a new run."""
        ...

    def requested_mode(self, run: Run) -> Mode | None:
        """Return the mode that the run's start asked for; None where it asked for none."""
        ...

    def requested_version(self, run: Run) -> int | None:
        """Return the policy version that the run's start asked for; None for none."""
        ...

    def count_chunk(self, run: Run, *, now: float) -> None:
        """Store that one more chunk was reported, and that the run is not abandoned."""
        ...

    def silent_runs(self, *, since: float, limit: int) -> Sequence[Run]:
        """Return active runs whose last accepted call came before `since`, the oldest first."""
        ...

    def abandon_run(self, run: Run, *, now: float) -> None:
        """Store that a run's lease ran out."""
        ...

    def finish_run(
        self, run: Run, *, outcome: Outcome, final_score: float | None, now: float
    ) -> None:
        """Store how a run ended."""
        ...

    def next_position(self) -> int:
        """Return the place in the log of what is appended next."""
        ...

    def append(self, run: Run, decision: Decision) -> None:
        """Append a decision to the log, at its position, which is the next one."""
        ...

    def find_decision(self, run: Run, chunk: int) -> Decision | None:
        """Return the decision for one chunk of a run."""
        ...

    def applied_values(self, run: Run) -> Sequence[Mapping[str, float]]:
        """Return what chunks of a run truly ran under, of those whose reports told it."""
        ...

    def set_use(self, run: Run, chunk: int, *, was: Use, use: Use) -> None:
        """Change what learning does with a run's decision for `chunk`, if it is `was`."""
        ...

    def transitions(
        self, *, controller: str, run_id: str, after: int, limit: int
    ) -> Iterator[tuple[Run, Transition]]:
        """Yield complete transitions by position, of one controller or run or (empty) of all.

        Each is read as it is asked for, where the database can.
        """
        ...

    def appended(self, *, after: int, limit: int) -> Sequence[Appended]:
        """Return of whose runs the decisions after a position are, by position."""
        ...

    def last_position(self) -> int:
        """Return the log's last position; 0 where it is empty."""
        ...

    def decisions(self, *, after: int, limit: int) -> Sequence[tuple[Run, Decision]]:
        """Return the whole log by position."""
        ...

    def with_ready(self, *, count: int) -> Set[int]:
        """Return the ids of controllers with so many transitions to learn from, deleted ones too.

        Reads neither those nor the controllers.
        """
        ...

    def ready_transitions(
        self, controller: Controller, *, limit: int
    ) -> Sequence[LearnableTransition]:
        """Return the oldest transitions that wait to be learned from, by position."""
        ...

    def mark_learned(self, transitions: Sequence[LearnableTransition], *, version: int) -> None:
        """Store that the update that makes `version` consumed these transitions."""
        ...

    def mark_recorded(self, transitions: Sequence[LearnableTransition]) -> None:
        """Store that these transitions are never learned from."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is durable, and never if it is not.

        What a reading transaction sees is durable: there it is called when that ends.
        """
        ...


class Durability(StrEnum):
    """What an answered write survives."""

    POWER = "power"
    """A machine that loses power: every commit is synced to disk first."""
    PROCESS = "process"
    """A killed process; a lost machine may lose the last moments, and nothing in between."""


class Store(Protocol):
    """Durable truth. Thread-safe; close it, or use it as a context manager."""

    def write(self, work: Callable[[Session], T], *, run_id: str | None = None) -> Future[T]:
        """Run `work` as one atomic step among others; the future is done when it is durable.

        `run_id` names the run that it will look up, so that those of many steps are read at once.
        What `work` raises leaves nothing behind and is raised by the future. `Unavailable` where
        the storage could not take it.
        """
        ...

    def read(self, work: Callable[[Session], T]) -> T:
        """Run `work`, which only reads, on a consistent view of what is committed."""
        ...

    def learning_for(self, controller: Controller) -> AbstractContextManager[bool]:
        """Give, until it is left, whether nobody else learns for a controller meanwhile.

        Ends with the process, however that ends. Two that learn at once would do no harm, as one
        result would be dropped: this saves the work.
        """
        ...

    def close(self) -> None:
        """Finish what was submitted and let go of the storage."""
        ...
