"""A run of the trainer service as values: what decides it, where it stands, what happened in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from agent_service.domain.errors import invalid
from agent_service.domain.runs import Mode
from trainer_service.training.chunk import Chunk
from trainer_service.training.final import FinalScores
from trainer_service.training.spec import Method, TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """All that decides a run; raises InvalidArgument naming the field that is wrong."""

    training: TrainingSpec
    controller: str = ""
    """The controller's name at the agent service, for reinforced methods; else empty."""
    mode: Mode | None = None
    """What the run does with the controller; None takes the controller's own."""
    keep: bool = False
    """Whether the last checkpoint stays when the run has succeeded, until it is discarded."""

    parent: str = ""
    """The id of a run that kept its checkpoint, where this one goes on; empty begins anew."""

    def __post_init__(self) -> None:
        """Check that a controller is named if and only if the method has one."""
        method = self.training.method
        if method.is_reinforced and not self.controller:
            raise invalid("controller", f"is empty; {method} needs the name of a controller")
        if self.controller and not method.is_reinforced:
            default = " (the default)" if method is Method.VANILLA else ""
            text = f"goes with method rni or rd; this run's method is {method}{default}"
            raise invalid("controller", text)
        if self.mode is Mode.SHADOW:
            raise invalid("mode", "a child here runs under what is decided; use learning or frozen")


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The run came to a state."""

    kind: Literal["state"] = "state"
    state: RunState
    cause: str = ""
    """Why it failed, was queued again, waits while it runs, or kept no checkpoint though it should;
    empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Training begins, or goes on in another process."""

    kind: Literal["planned"] = "planned"
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTrained:
    """A chunk was trained and reported."""

    kind: Literal["chunk"] = "chunk"
    chunk: Chunk
    policy_version: int
    """That decided what it ran under; 0 without a policy."""
    agent_seconds: float
    """Time of the report to the agent; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run's result."""

    kind: Literal["result"] = "result"
    scores: FinalScores
    diverged: bool
    seconds: float
    """Its own training time, without start-up and what was trained twice after a kill."""
    device: str
    """In words."""
    weights_digest: str = ""
    """SHA-256 of the last weights; empty for runs from before there was one."""


What = StateChanged | Planned | ChunkTrained | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened in a run."""

    index: int
    """From 1, without gaps."""
    time: float
    """Seconds since 1970."""
    what: What


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it stands."""

    id: str
    key: int
    """Place in the order of submission."""
    spec: RunSpec
    state: RunState
    cause: str
    trained_chunks: int
    """Those before its own, of the runs that it goes on from, included."""
    planned_chunks: int
    result: Finished | None
    created_at: float
    """Seconds since 1970."""

    @property
    def is_kept(self) -> bool:
        """Whether it ended with a checkpoint that stays, until that is discarded."""
        return self.state is RunState.SUCCEEDED and self.spec.keep and not self.cause
