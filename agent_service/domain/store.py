"""Ports: the store, and policies, as the rules see them."""

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

# NumPy is imported only for type checking: the client imports this module, and half of that time
# was NumPy's, in scripts that do not need it.

T = TypeVar("T")


class Policy(Protocol):
    """One version of a learned policy, ready to decide."""

    def mean(self, observation: np.ndarray) -> np.ndarray:
        """Return the mean action, float64[h], in the policy's own range.

        Args:
            observation: the state and the context, float64[N + c].
        """
        ...

    def sample(self, observation: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the action for standard normal `noise` [h], unclipped, and its log probability."""
        ...


AnyPolicy = Union[Policy, "TrialHistory"]  # `|` does not accept quoted names
"""A stored policy version: a policy of states, or the trials behind one value per run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that a decision may depend on, besides the controller's spec."""

    run_id: str
    chunk: int
    """Index, from 1, of the chunk that the action is for."""
    observation: np.ndarray
    """S_t, zeros for the first chunk, then the context: float64[N + c]; see `observations`."""
    mode: Mode
    previous: Choice | None
    """A_{t-1}, the choice that the reported chunk ran under; None for the first chunk."""
    policy: AnyPolicy | None
    """The policy version to decide by; None if the algorithm has no policy."""


class Origin(StrEnum):
    """Origin of a policy version."""

    INITIAL = "initial"
    """Created with its controller."""
    LEARNED = "learned"
    """Made by an update from transitions, or from a run's final score."""
    IMPORTED = "imported"
    """Imported from a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """A stored policy version."""

    version: int
    data: bytes
    """The policy file, made or accepted by `learning.policies`."""
    origin: Origin
    learned_transitions: int = 0
    """Number of transitions that its update learned from."""
    statistics: Mapping[str, float]
    """Statistics of its update; empty for versions that were not learned."""
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """A policy version in a list: without its data, which may be large."""

    version: int
    size: int
    """Size of the data in bytes."""
    origin: Origin
    learned_transitions: int
    statistics: Mapping[str, float]
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of a controller's runs and transitions."""

    runs: Mapping[RunState, int]
    """By state, without archived runs."""
    outcomes: Mapping[Outcome, int]
    """Finished runs by outcome."""
    ready: int
    """Transitions that are ready for an update."""
    learned: int
    """Transitions that updates consumed; like all counters, with archived ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnableTransition:
    """A transition that is ready to be learned from."""

    transition: Transition
    ends_episode: bool
    """Whether its run terminated with it, so that nothing is bootstrapped after it."""


class Session(Retention, Protocol):
    """A transaction: sees all committed data and its own changes."""

    def find_controller(self, name: str) -> Controller | None:
        """Return the controller of this name, even if deleted."""
        ...

    def list_controllers(self, *, after: str, limit: int) -> Iterator[Controller]:
        """Yield controllers that are not deleted, ordered by name, after the name `after`.

        Each is read when it is yielded.
        """
        ...

    def newer_controllers(self, *, than: int) -> Iterator[Controller]:
        """Yield controllers with ids above `than`, by id; each is read when it is yielded."""
        ...

    def learning_controllers(self, ids: Collection[int]) -> Sequence[Controller]:
        """Return those of these controllers that are learning and not deleted; reads no others."""
        ...

    def has_controllers(self, *, count: int) -> bool:
        """Return whether at least `count` controllers are not deleted."""
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
        """Return the number of recorded-only transitions, archived ones included; reads each."""
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
        """Return policy versions below `before`, newest first, without reading their data."""
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
        """Return whether at least `count` runs are active."""
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
        """Return the mode that the run's start requested; None if it requested none."""
        ...

    def requested_version(self, run: Run) -> int | None:
        """Return the policy version that the run's start requested; None if it requested none."""
        ...

    def count_chunk(self, run: Run, *, now: float) -> None:
        """Increment the run's count of reported chunks, and revive it if it was abandoned."""
        ...

    def silent_runs(self, *, since: float, limit: int) -> Sequence[Run]:
        """Return active runs whose last accepted call was before `since`, oldest first."""
        ...

    def abandon_run(self, run: Run, *, now: float) -> None:
        """Mark a run as abandoned, since its lease expired."""
        ...

    def finish_run(
        self, run: Run, *, outcome: Outcome, final_score: float | None, now: float
    ) -> None:
        """Store a run's outcome and final score."""
        ...

    def next_position(self) -> int:
        """Return the log position of the next decision to be appended."""
        ...

    def append(self, run: Run, decision: Decision) -> None:
        """Append a decision to the log, at its position, which is the next one."""
        ...

    def find_decision(self, run: Run, chunk: int) -> Decision | None:
        """Return the decision for one chunk of a run."""
        ...

    def applied_values(self, run: Run) -> Sequence[Mapping[str, float]]:
        """Return the values that a run's chunks actually ran under, where reports gave them."""
        ...

    def set_use(self, run: Run, chunk: int, *, was: Use, use: Use) -> None:
        """Change the use of a run's decision for `chunk`, if it is `was`."""
        ...

    def transitions(
        self, *, controller: str, run_id: str, after: int, limit: int
    ) -> Iterator[tuple[Run, Transition]]:
        """Yield complete transitions by position, of one controller or run, or (empty) of all.

        Each is read when it is yielded, if the database supports that.
        """
        ...

    def appended(self, *, after: int, limit: int) -> Sequence[Appended]:
        """Return the controller and run of each decision after a position, by position."""
        ...

    def last_position(self) -> int:
        """Return the log's last position; 0 if it is empty."""
        ...

    def decisions(self, *, after: int, limit: int) -> Sequence[tuple[Run, Decision]]:
        """Return the whole log by position."""
        ...

    def with_ready(self, *, count: int) -> Set[int]:
        """Return the ids of controllers with at least `count` ready transitions, deleted too.

        Reads neither transitions nor controllers.
        """
        ...

    def ready_transitions(
        self, controller: Controller, *, limit: int
    ) -> Sequence[LearnableTransition]:
        """Return the oldest transitions that are ready to be learned from, by position."""
        ...

    def mark_learned(self, transitions: Sequence[LearnableTransition], *, version: int) -> None:
        """Mark transitions as consumed by the update that made `version`."""
        ...

    def mark_recorded(self, transitions: Sequence[LearnableTransition]) -> None:
        """Mark transitions as never to be learned from."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is durable, and never if it is not.

        A reading transaction, which sees only durable data, calls it when it ends.
        """
        ...


class Durability(StrEnum):
    """What an answered write survives."""

    POWER = "power"
    """A power failure: every commit is synced to disk."""
    PROCESS = "process"
    """A killed process; a power failure may lose the last moments, but nothing in between."""


class Store(Protocol):
    """The durable store. Thread-safe; close it, or use it as a context manager."""

    def write(self, work: Callable[[Session], T], *, run_id: str | None = None) -> Future[T]:
        """Run `work` as one atomic step; the future is done when it is durable.

        `run_id` names the run that it will look up, so that those of several steps are read
        together. If `work` raises, nothing is stored, and the future raises its error; Unavailable
        if the storage failed.
        """
        ...

    def read(self, work: Callable[[Session], T]) -> T:
        """Run `work`, which only reads, on a consistent view of committed data."""
        ...

    def learning_for(self, controller: Controller) -> AbstractContextManager[bool]:
        """Yield whether no other process learns for a controller, and keep others out meanwhile.

        Released when the process ends, in any way. It only saves work: of two concurrent updates,
        one result would be dropped.
        """
        ...

    def close(self) -> None:
        """Finish submitted work and close the storage."""
        ...
