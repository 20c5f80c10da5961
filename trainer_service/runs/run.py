"""Values of a trainer run: its spec, its state and its events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from agent_service.domain.errors import invalid
from agent_service.domain.runs import Mode
from trainer_service.training.chunk import Chunk, FinalScores
from trainer_service.training.regularizers.registry import names_in_words
from trainer_service.training.spec import DEFAULT_METHOD, TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The full specification of a run; raises InvalidArgument naming the invalid field."""

    training: TrainingSpec
    controller: str = ""
    """Name of the controller at the agent service, for reinforced methods; else empty."""
    mode: Mode | None = None
    """Mode of the run at the controller; None uses the controller's own."""
    keep: bool = False
    """Whether the last checkpoint is kept after success, until it is discarded."""
    parent: str = ""
    """Id of a run with a kept checkpoint, from which this one continues; empty for none."""

    def __post_init__(self) -> None:
        """Check that a controller is named if and only if the method has one."""
        method, is_reinforced = self.training.method, self.training.is_reinforced
        if is_reinforced and not self.controller:
            raise invalid("controller", f"is empty; {method} needs the name of a controller")
        if self.controller and not is_reinforced:
            default = " (the default)" if method == DEFAULT_METHOD else ""
            others = names_in_words(is_reinforced=True)
            text = f"goes with method {others}; this run's method is {method}{default}"
            raise invalid("controller", text)
        if self.mode is Mode.SHADOW:
            raise invalid("mode", "is not supported by the trainer service; use learning or frozen")


class RunState(StrEnum):
    """State of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The run's state or its cause changed."""

    kind: Literal["state"] = "state"
    state: RunState
    cause: str = ""
    """Why it failed, was queued again, waits while it runs, or kept no checkpoint despite `keep`;
    empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Training starts, or resumes in another process."""

    kind: Literal["planned"] = "planned"
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTrained:
    """A chunk was trained and reported."""

    kind: Literal["chunk"] = "chunk"
    chunk: Chunk
    policy_version: int
    """Version of the policy that decided the chunk's values; 0 without a policy."""
    agent_seconds: float
    """Time of the report to the agent, in seconds; 0 without an agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run's result."""

    kind: Literal["result"] = "result"
    scores: FinalScores
    diverged: bool
    seconds: float
    """Training time of this run, without start-up and chunks repeated after a kill."""
    device: str
    """Description of the device."""
    weights_digest: str = ""
    """SHA-256 of the last weights; empty for runs of versions without it."""


EventContent = StateChanged | Planned | ChunkTrained | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a run."""

    index: int
    """From 1, without gaps."""
    time: float
    """Seconds since 1970."""
    what: EventContent


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run and its current state."""

    id: str
    key: int
    """Number in the order of submission."""
    spec: RunSpec
    state: RunState
    cause: str
    trained_chunks: int
    """Including those of its parents."""
    planned_chunks: int
    result: Finished | None
    created_at: float
    """Seconds since 1970."""

    @property
    def is_kept(self) -> bool:
        """Whether it ended with a kept checkpoint, which may be discarded since."""
        return self.state is RunState.SUCCEEDED and self.spec.keep and not self.cause
