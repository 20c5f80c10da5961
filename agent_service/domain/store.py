"""Values of the store: situations to decide in, policy versions, counts, and transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar, Union

from agent_service.domain.runs import Choice, Mode, Outcome, RunState, Transition

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


class Durability(StrEnum):
    """Failures that an answered write survives."""

    POWER = "power"
    """A power failure: every commit is synced to disk."""
    PROCESS = "process"
    """A killed process; a power failure may lose the last moments, but nothing in between."""
