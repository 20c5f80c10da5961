"""Values of runs: controllers, runs, reports, decisions and transitions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from agent_service.domain.checks import check_name, member, quoted
from agent_service.domain.errors import invalid
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Feedback
from agent_service.domain.specs import ControllerSpec

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported only inside functions: the client imports this module, and half of that time was
# NumPy's, in scripts that do not need it.

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Form of run ids, which callers choose."""
LONGEST_RUN_ID = 128
LONGEST_LABEL, LONGEST_LABEL_TEXT = 256, 1024


class Mode(StrEnum):
    """Whether a controller, or a run, learns."""

    LEARNING = "learning"
    """Actions are sampled, and the run's transitions are learned from."""
    FROZEN = "frozen"
    """Mean actions of one policy version, by default the newest at the start; no learning."""
    SHADOW = "shadow"
    """As frozen, but the child keeps its own values and reports them with each chunk."""


class Outcome(StrEnum):
    """How a run ended."""

    TERMINATED = "terminated"
    """As planned: nothing is bootstrapped after the last transition."""
    TRUNCATED = "truncated"
    """Cut off: the value is bootstrapped after the last transition."""
    DIVERGED = "diverged"
    """By a non-finite loss; nothing is bootstrapped."""
    CANCELLED = "cancelled"
    """By the user; bootstrapped like truncated."""

    @property
    def is_terminal(self) -> bool:
        """Whether the episode really ended, so that nothing is bootstrapped."""
        return self in (Outcome.TERMINATED, Outcome.DIVERGED)


class RunState(StrEnum):
    """State of a run."""

    ACTIVE = "active"
    """It reports."""
    FINISHED = "finished"
    """It ended with an outcome, and accepts no more reports."""
    ABANDONED = "abandoned"
    """Its lease expired without a report: truncated, until its next report revives it."""


class Use(StrEnum):
    """How learning uses a decision's transition."""

    PENDING = "pending"
    """It is incomplete, or it is not yet known whether it ends the episode."""
    READY = "ready"
    """It is ready to be learned from."""
    RECORDED = "recorded"
    """It is only kept in the log, and never learned from."""
    LEARNED = "learned"
    """It was consumed by the update that made a policy version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The current state of a controller."""

    id: int
    """The store's key."""
    spec: ControllerSpec
    mode: Mode
    policy_version: int
    """The newest version; 0 for controllers without a policy."""
    created_at: float
    """Seconds since 1970."""
    is_deleted: bool = False
    """Deleted controllers keep their log and name, and accept no new runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The current state of a run: one training of one child."""

    key: int
    """The store's key."""
    id: str
    """The caller's id."""
    controller: Controller
    mode: Mode
    labels: Mapping[str, str]
    """The user's labels; no effect."""
    planned_chunks: int | None
    """Chunks that the training plans; None if its start did not say."""
    pinned_version: int | None
    """The policy version that a frozen or shadow run uses; None for learning runs."""
    reported_chunks: int
    """Chunks reported so far; the next report is of chunk `reported_chunks + 1`."""
    outcome: Outcome | None
    """None while the run is active."""
    final_score: float | None
    created_at: float
    """Seconds since 1970."""
    updated_at: float
    """Seconds since 1970 of the last accepted call."""
    abandoned_at: float | None = None
    """Seconds since 1970, if its lease has expired since that call."""
    problem: Problem | None = None
    """What its training is about; None if its start did not say."""
    archive: str | None = None
    """The archive file that its decisions were pruned into; None while the store has them."""

    @property
    def is_learned_from(self) -> bool:
        """Whether its transitions are learned from, according to its mode and algorithm."""
        return self.mode is Mode.LEARNING and self.controller.spec.algorithm.learns_from_transitions

    @property
    def has_end(self) -> bool:
        """Whether the log has a row for its end: the reward of the chunk that diverged."""
        spec = self.controller.spec
        return self.outcome is Outcome.DIVERGED and spec.reward_of_divergence is not None

    @property
    def state(self) -> RunState:
        """The run's state."""
        if self.outcome is not None:
            return RunState.FINISHED
        return RunState.ACTIVE if self.abandoned_at is None else RunState.ABANDONED


@dataclass(frozen=True, slots=True)
class Choice:
    """A controller's choice for one state."""

    sample: tuple[float, ...]
    """The algorithm's output, h numbers, not clipped to [-1, 1]; see `action_values`."""
    log_probability: float
    """Log probability of the unclipped sample under the behaviour policy.

    0 for deterministic choices, and for proposals of TPE, whose density is unknown.
    """
    explored: bool
    """Whether it was sampled at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A row of the decision log: the action A_t and everything that it was derived from.

    Made by the report of chunk t, which brings S_t and the reward of the previous action.
    """

    position: int
    """Position in the service's log, ascending in the order of commits."""
    run_id: str
    chunk: int
    """Index t + 1 of the chunk that this action is for; 1 for A_0."""
    state: np.ndarray
    """S_t: float64[N], the losses of chunk t; zeros for S_0."""
    context: np.ndarray
    """The policy's context beside S_t, float64; see `observations.observed_context`."""
    feedback: Feedback | None
    """Feedback of chunk t; None for A_0."""
    reward: float | None
    """Reward of the previous action; None for A_0."""
    applied: Mapping[str, float] | None
    """The values that chunk t ran under, if they were not the decided ones."""
    choice: Choice
    values: Mapping[str, float]
    """The action: hyperparameter values by name."""
    policy_version: int
    use: Use
    """Use of the transition that starts here."""
    learned_in: int | None
    """The policy version whose update consumed that transition."""
    created_at: float
    """Seconds since 1970."""

    @property
    def is_end(self) -> bool:
        """Whether it is only the reward of a chunk that diverged and has no report."""
        return self.chunk > 1 and self.feedback is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """(S_t, A_t, R_t, S_{t+1}) of one run, with the choice that led to A_t."""

    position: int
    """Log position of the report that completed it."""
    decision: Decision
    """A_t, decided from S_t, for chunk t + 1."""
    reward: float
    """R_t."""
    next_state: np.ndarray
    """S_{t+1}: float64[N]; zeros if the chunk diverged."""
    next_context: np.ndarray
    """The policy's context beside S_{t+1}, float64; zeros if the chunk diverged."""
    feedback: Feedback | None
    """The feedback from which the reward was computed; None if the chunk diverged."""
    applied: Mapping[str, float] | None
    """The values that chunk t + 1 ran under, if they were not A_t."""
    reported_at: float
    """Seconds since 1970."""

    @property
    def nbytes(self) -> int:
        """Bytes of its losses and contexts, the only parts that may be large."""
        arrays = (self.decision.state, self.decision.context, self.next_state, self.next_context)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of the log's requested transitions."""

    transitions: Sequence[tuple[Run, Transition]]
    """In order of position."""
    reached: int
    """Position after which to continue; it skips other runs' entries that were scanned."""
    is_last: bool
    """Whether the log had no more when this was read."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry that was appended to the log."""

    position: int
    controller: str
    run_id: str


def check_labels(labels: Mapping[str, str]) -> None:
    """Check the number and lengths of a run's labels; raises InvalidArgument."""
    if len(labels) > 64:
        raise invalid("labels", f"{len(labels)} given; at most 64")
    for key, text in labels.items():
        for part, longest in ((key, LONGEST_LABEL), (text, LONGEST_LABEL_TEXT)):
            if not isinstance(part, str):
                raise invalid("labels", f"{quoted(part)} is not text; write '{quoted(part)}'")
            if len(part) > longest:
                raise invalid("labels", f"{quoted(part)} is too long; at most {longest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """A request to start a run."""

    controller: str
    run_id: str
    mode: Mode | None = None
    """None uses the controller's mode."""
    policy_version: int | None = None
    """The version that a frozen or shadow run uses; None for the newest."""
    labels: Mapping[str, str]
    planned_chunks: int | None = None
    """Chunks that the training plans, at least 1; None if unknown."""
    problem: Problem | None = None
    """What the training is about; None if unknown."""

    def __post_init__(self) -> None:
        """Check the id's form, the version, the labels and the plan; raises InvalidArgument."""
        check_name(self.run_id, RUN_ID, longest=LONGEST_RUN_ID, field="run_id")
        if self.policy_version is not None and self.policy_version < 1:
            raise invalid("policy_version", f"{self.policy_version} must be at least 1")
        check_labels(self.labels)
        if self.planned_chunks is not None and self.planned_chunks < 1:
            raise invalid("planned_chunks", f"{self.planned_chunks} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReport:
    """A training's report of one chunk."""

    run_id: str
    chunk: int
    """Index of the reported chunk, from 1."""
    losses: np.ndarray
    """float64[N], in order."""
    feedback: Feedback
    applied: Mapping[str, float] | None = None
    """The values that the chunk ran under, if they were not the decided ones."""

    def __post_init__(self) -> None:
        """Check all that does not depend on the run; raises InvalidArgument."""
        if self.chunk < 1:
            raise invalid("chunk_index", f"{self.chunk} must be at least 1")
        for place, loss in enumerate(self.losses.tolist()):
            if not math.isfinite(loss):
                raise invalid(f"losses[{place}]", f"{loss} is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """A request to finish a run."""

    run_id: str
    outcome: Outcome
    final_score: float | None = None
    """The child's final result, larger is better; a Bayesian controller learns from it."""

    def __post_init__(self) -> None:
        """Check the outcome and the score; raises InvalidArgument."""
        object.__setattr__(self, "outcome", member(Outcome, self.outcome, "outcome"))
        if self.final_score is not None and not math.isfinite(self.final_score):
            raise invalid("final_score", f"{self.final_score} is not finite")
