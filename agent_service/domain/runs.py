"""Runs and what happens in them: reports come in, decisions go out, transitions remain."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from agent_service.domain.checks import check_name, member, quoted
from agent_service.domain.errors import invalid
from agent_service.domain.rewards import Feedback
from agent_service.domain.specs import ControllerSpec

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported inside functions alone: the client imports this, and half of what that took in a
# script that needs no NumPy was NumPy.

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""The form of a run id; the caller chooses it."""
LONGEST_RUN_ID = 128
LONGEST_LABEL, LONGEST_LABEL_TEXT = 256, 1024


class Mode(StrEnum):
    """Whether a controller, or a run of it, still learns."""

    LEARNING = "learning"
    """Actions are sampled, and the run's transitions are learned from."""
    FROZEN = "frozen"
    """The mean action of one policy version, the newest at the start or another; no learning."""
    SHADOW = "shadow"
    """As frozen, but the child keeps values of its own, and tells them with each chunk."""


class Outcome(StrEnum):
    """How a run ended."""

    TERMINATED = "terminated"
    """By its own plan: no value follows the last transition."""
    TRUNCATED = "truncated"
    """Cut from outside: the value bootstraps at the cut."""
    DIVERGED = "diverged"
    """By a loss that is not finite; an end like terminated."""
    CANCELLED = "cancelled"
    """By its user; a cut like truncated."""

    @property
    def is_terminal(self) -> bool:
        """Whether the episode truly ended here, so that nothing is bootstrapped."""
        return self in (Outcome.TERMINATED, Outcome.DIVERGED)


class RunState(StrEnum):
    """Where a run stands."""

    ACTIVE = "active"
    """It reports."""
    FINISHED = "finished"
    """It ended with an outcome, and takes no more reports."""
    ABANDONED = "abandoned"
    """It reported nothing for its lease; a truncated end, until its next report revives it."""


class Use(StrEnum):
    """What learning does with the transition of a decision."""

    PENDING = "pending"
    """It is not complete yet, or whether it ends the episode is not known yet."""
    READY = "ready"
    """It waits to be learned from."""
    RECORDED = "recorded"
    """It is kept in the log and never learned from."""
    LEARNED = "learned"
    """It was consumed by the update that made one policy version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A controller as it stands now."""

    id: int
    """The store's key."""
    spec: ControllerSpec
    mode: Mode
    policy_version: int
    """The newest version; 0 for controllers without a policy."""
    created_at: float
    """Seconds since 1970."""
    is_deleted: bool = False
    """Deleted controllers keep their log and their name, and start no more runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training of one child as it stands now."""

    key: int
    """The store's key."""
    id: str
    """The caller's."""
    controller: Controller
    mode: Mode
    labels: Mapping[str, str]
    """The user's own words about the run; no effect."""
    planned_chunks: int | None
    """Chunks that its training plans; None where its start did not say."""
    pinned_version: int | None
    """The policy version that a frozen or shadow run keeps to; None for learning runs."""
    reported_chunks: int
    """Chunks reported so far; the next report is of chunk `reported_chunks + 1`."""
    outcome: Outcome | None
    """None while the run is active."""
    final_score: float | None
    created_at: float
    """Seconds since 1970."""
    updated_at: float
    """Seconds since 1970, of the last accepted call."""
    abandoned_at: float | None = None
    """Seconds since 1970, where its lease ran out since that call."""
    archive: str | None = None
    """The archive file that its decisions were pruned into; None while the store has them."""

    @property
    def is_learned_from(self) -> bool:
        """Whether its transitions are for learning: its mode and its algorithm say so."""
        return self.mode is Mode.LEARNING and self.controller.spec.algorithm.learns_from_transitions

    @property
    def has_end(self) -> bool:
        """Whether the log holds its end: the reward of the chunk that diverged."""
        spec = self.controller.spec
        return self.outcome is Outcome.DIVERGED and spec.reward_of_divergence is not None

    @property
    def state(self) -> RunState:
        """Where it stands."""
        if self.outcome is not None:
            return RunState.FINISHED
        return RunState.ACTIVE if self.abandoned_at is None else RunState.ABANDONED


@dataclass(frozen=True, slots=True)
class Choice:
    """What a controller decides from one state."""

    sample: tuple[float, ...]
    """What was put out, h numbers, not clipped to [-1, 1]; `action_values` are what it leads to."""
    log_probability: float
    """Of the unclipped sample under the behaviour that drew it.

    0 for sure choices, and for proposals of TPE, whose density is not told.
    """
    explored: bool
    """Whether chance took part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One row of the decision log: the action A_t and all that it was derived from.

    The report of chunk t, which brought S_t and the reward of the action before, made it.
    """

    position: int
    """Place in the log of the whole service, rising in the order of commits."""
    run_id: str
    chunk: int
    """Index t + 1 of the chunk that this action is for; 1 for A_0."""
    state: np.ndarray
    """S_t: float64[N], the losses of chunk t; zeros for S_0."""
    context: np.ndarray
    """What the policy saw beside S_t, float64; see `observations.observed_context`."""
    feedback: Feedback | None
    """Of chunk t; None for A_0."""
    reward: float | None
    """Earned by the action before this one; None for A_0."""
    applied: Mapping[str, float] | None
    """What chunk t truly ran under, where it was not the decided action."""
    choice: Choice
    values: Mapping[str, float]
    """The action: hyperparameter values by name."""
    policy_version: int
    use: Use
    """What learning does with the transition that starts here."""
    learned_in: int | None
    """The policy version whose update consumed that transition."""
    created_at: float
    """Seconds since 1970."""

    @property
    def observation(self) -> np.ndarray:
        """All that the policy saw: S_t, then the context."""
        import numpy as np

        return np.concatenate([self.state, self.context])

    @property
    def is_end(self) -> bool:
        """Whether it is no decision, but the reward of a chunk that diverged and has no report."""
        return self.chunk > 1 and self.feedback is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """(S_t, A_t, R_t, S_{t+1}) of one run, with the behaviour that chose A_t."""

    position: int
    """Place in the log of the report that completed it."""
    decision: Decision
    """A_t, decided from S_t, for chunk t + 1."""
    reward: float
    """R_t."""
    next_state: np.ndarray
    """S_{t+1}: float64[N]; zeros where the chunk diverged."""
    next_context: np.ndarray
    """What the policy saw beside S_{t+1}, float64; zeros where the chunk diverged."""
    feedback: Feedback | None
    """What the reward was computed from; None where the chunk diverged."""
    applied: Mapping[str, float] | None
    """What chunk t + 1 truly ran under, where it was not A_t."""
    reported_at: float
    """Seconds since 1970."""

    @property
    def next_observation(self) -> np.ndarray:
        """All that the policy saw after the chunk: S_{t+1}, then the context."""
        import numpy as np

        return np.concatenate([self.next_state, self.next_context])

    @property
    def nbytes(self) -> int:
        """Bytes of its losses and contexts, which are all that may be large in it."""
        arrays = (self.decision.state, self.decision.context, self.next_state, self.next_context)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some transitions of the log, and up to where it holds no other that was asked for."""

    transitions: Sequence[tuple[Run, Transition]]
    """In order of position."""
    reached: int
    """Read on after this position: who waits for a quiet run does not walk all others' again."""
    is_last: bool
    """Whether the log held no more when this was read."""


@dataclass(frozen=True, slots=True)
class Appended:
    """That something was appended to the log, and of whose run."""

    position: int
    controller: str
    run_id: str


def check_labels(labels: Mapping[str, str]) -> None:
    """Check how many labels a run has, and how long they are; raises InvalidArgument."""
    if len(labels) > 64:
        raise invalid("labels", f"{len(labels)} given; at most 64")
    for key, text in labels.items():
        for part, longest in ((key, LONGEST_LABEL), (text, LONGEST_LABEL_TEXT)):
            if not isinstance(part, str):
                raise invalid("labels", f"{quoted(part)} is no text; write '{quoted(part)}'")
            if len(part) > longest:
                raise invalid("labels", f"{quoted(part)} is too long; at most {longest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """The wish to start a run."""

    controller: str
    run_id: str
    mode: Mode | None = None
    """None takes the controller's."""
    policy_version: int | None = None
    """What a frozen or shadow run keeps to; None takes the newest."""
    labels: Mapping[str, str]
    planned_chunks: int | None = None
    """Chunks that the training plans, at least 1; None where that is not known."""

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
    """What a training tells of one chunk."""

    run_id: str
    chunk: int
    """Index of the chunk reported, from 1."""
    losses: np.ndarray
    """float64[N], in order."""
    feedback: Feedback
    applied: Mapping[str, float] | None = None
    """What the chunk truly ran under, if it was not what was decided."""

    def __post_init__(self) -> None:
        """Check what can be checked without the run; raises InvalidArgument."""
        if self.chunk < 1:
            raise invalid("chunk_index", f"{self.chunk} must be at least 1")
        for place, loss in enumerate(self.losses.tolist()):
            if not math.isfinite(loss):
                raise invalid(f"losses[{place}]", f"{loss} is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """The end of a run."""

    run_id: str
    outcome: Outcome
    final_score: float | None = None
    """The child's own final result, larger is better; a Bayesian controller learns from it."""

    def __post_init__(self) -> None:
        """Check the outcome, and that a score is finite; raises InvalidArgument."""
        object.__setattr__(self, "outcome", member(Outcome, self.outcome, "outcome"))
        if self.final_score is not None and not math.isfinite(self.final_score):
            raise invalid("final_score", f"{self.final_score} is not finite")
