"""Rewards: what a controller learns from, made of a chunk's two scores (Eqs. 7-11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent_service.domain.checks import quoted
from agent_service.domain.errors import invalid

Formula = Callable[[float, float, float], float]
"""Of a chunk's training and validation scores, and the validation score of the chunk before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A reward: its bound and its formula."""

    worst: float | None
    """The smallest one that a chunk can earn; None where there is no bound."""
    formula: Formula | None
    """None where the training reports it ready made."""

    @property
    def is_given(self) -> bool:
        """Whether the training reports it, in place of its scores."""
        return self.formula is None


class Reward(StrEnum):
    """The rewards by name, each with its worst value and its formula."""

    GAP = "gap", -1.0, lambda training, validation, before: validation - training
    """R_t = MVF_{t+1} - MTF_{t+1}, the paper's (Eq. 11); in [-1, 1]."""
    VALIDATION = "validation", 0.0, lambda training, validation, before: validation
    """R_t = MVF_{t+1}; in [0, 1]."""
    IMPROVEMENT = "improvement", -1.0, lambda training, validation, before: validation - before
    """R_t = MVF_{t+1} - MVF_t, and MVF_1 - 0 for the first chunk; in [-1, 1]."""
    GIVEN = "given", None, None
    """A finite number that the training reports, ready made."""

    definition: Definition

    def __new__(cls, name: str, worst: float | None, formula: Formula | None) -> Reward:
        """Make a member whose value is its name."""
        reward = str.__new__(cls, name)
        reward._value_ = name
        reward.definition = Definition(worst=worst, formula=formula)
        return reward


REWARDS: dict[str, Definition] = {reward: reward.definition for reward in Reward}
"""The one place that says what a reward is: services, environments and reports compute it here."""


def named(reward: str) -> str:
    """Return a reward's name as in `REWARDS`; raises InvalidArgument of an unknown one."""
    for name in REWARDS:
        if name == reward:
            return name
    raise invalid("reward", f"{quoted(reward)} is not one of {', '.join(REWARDS)}")


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


def compute_reward(reward: str, feedback: Feedback, previous: Feedback | None) -> float:
    """Return the reward R_t that the action of the reported chunk earned.

    Args:
        reward: the controller's.
        feedback: of the reported chunk, C_{t+1}.
        previous: of the chunk before, C_t; None for a run's first chunk.

    Raises:
        InvalidArgument: where the feedback is not of the kind that the reward needs.
    """
    formula = REWARDS[reward].formula
    if isinstance(feedback, GivenReward):
        if formula is None:
            return feedback.value
        raise invalid(
            "reward",
            f"this controller computes `{reward}`; report `scores` instead, in Python by "
            "run.report(validation)",
        )
    if formula is None:
        raise invalid(
            "scores",
            f"this controller's reward is `{reward}`; report `reward` instead, in Python by "
            "run.report_reward(losses, reward)",
        )
    before = previous.validation if isinstance(previous, Scores) else 0.0
    return formula(feedback.training, feedback.validation, before)


def course_of_rewards(
    reward: str, *, training: Sequence[float], validation: Sequence[float]
) -> list[float]:
    """Return what each chunk of a whole run earned, by its scores.

    Args:
        reward: one that is made of scores.
        training: MTF of each chunk.
        validation: MVF of each chunk.
    """
    formula = REWARDS[reward].formula
    assert formula is not None, reward
    return list(map(formula, training, validation, [0.0, *validation]))
