"""Rewards: what a controller learns from, made of a chunk's two scores (Eqs. 7-11)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from agent_service.domain.errors import invalid


class Reward(StrEnum):
    """The definitions of method.md, by the name that a controller's spec gives."""

    GAP = "gap"
    """R_t = MVF_{t+1} - MTF_{t+1}, the paper's (Eq. 11); in [-1, 1]."""
    VALIDATION = "validation"
    """R_t = MVF_{t+1}; in [0, 1]."""
    IMPROVEMENT = "improvement"
    """R_t = MVF_{t+1} - MVF_t, and MVF_1 - 0 for the first chunk; in [-1, 1]."""
    GIVEN = "given"
    """A finite number that the training reports, ready made."""


WORST: dict[Reward, float | None] = {
    Reward.GAP: -1.0,
    Reward.VALIDATION: 0.0,
    Reward.IMPROVEMENT: -1.0,
    Reward.GIVEN: None,
}
"""The smallest reward that a chunk can earn; a given one has no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The two mean scores of one chunk, each in [0, 1], larger is better."""

    training: float
    """MTF: mean training score of the chunk's N batches (Eq. 9)."""
    validation: float
    """MVF: mean validation score of the chunk's m batches (Eq. 10)."""

    def __post_init__(self) -> None:
        """Check both ranges; raises InvalidArgument naming the score."""
        for name, score in (("training", self.training), ("validation", self.validation)):
            if not 0 <= score <= 1:
                raise invalid(f"scores.{name}", f"{score} is not in [0, 1]")
            # A database's columns keep no negative zero; decide from what will be read again.
            object.__setattr__(self, name, score + 0.0)


@dataclass(frozen=True, slots=True)
class GivenReward:
    """A reward that the training made itself, for controllers whose reward is `given`."""

    value: float

    def __post_init__(self) -> None:
        """Check that it is finite; raises InvalidArgument."""
        if not math.isfinite(self.value):
            raise invalid("reward", f"{self.value} is not finite")
        object.__setattr__(self, "value", self.value + 0.0)  # as of scores


Feedback = Scores | GivenReward


def compute_reward(definition: Reward, feedback: Feedback, previous: Feedback | None) -> float:
    """Return the reward R_t that the action of the reported chunk earned.

    Args:
        definition: the controller's reward.
        feedback: of the reported chunk, C_{t+1}.
        previous: of the chunk before, C_t; None for a run's first chunk.

    Raises:
        InvalidArgument: where the feedback is not of the kind that the definition needs.
    """
    if definition is Reward.GIVEN:
        if not isinstance(feedback, GivenReward):
            raise invalid(
                "scores",
                "this controller's reward is `given`; report `reward` instead, in Python by "
                "run.report_reward(losses, reward)",
            )
        return feedback.value
    if not isinstance(feedback, Scores):
        raise invalid(
            "reward",
            f"this controller computes `{definition}`; report `scores` instead, in Python by "
            "run.report(validation)",
        )
    if definition is Reward.GAP:
        return feedback.validation - feedback.training
    if definition is Reward.VALIDATION:
        return feedback.validation
    before = previous.validation if isinstance(previous, Scores) else 0.0
    return feedback.validation - before
