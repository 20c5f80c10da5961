"""Specs of controllers: hyperparameters, reward, seed and algorithm.

Specs are values: equal specs make controllers that decide alike. They are checked where they
are made, so every spec that exists is a valid one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from agent_service.domain.checks import (
    check_kind,
    check_name,
    fields_by_name,
    quoted,
    several,
)
from agent_service.domain.errors import invalid, within
from agent_service.domain.hyperparameters import LONGEST_NAME, NAME, Hyperparameter
from agent_service.domain.rewards import REWARDS, Reward, named

if TYPE_CHECKING:
    from agent_service.controllers.ppo import PPOSettings
    from agent_service.domain.runs import Choice
    from agent_service.domain.store import Situation


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """A policy to begin with, in place of random weights: another controller's, or the package's.

    One of `controller` and `pretrained` is set.
    """

    controller: str = ""
    """The name of the controller that has the policy."""
    policy_version: int = 0
    """From 1; 0 is the newest when the controller is created, and replaced by its number then."""
    pretrained: str = ""
    """The name of a policy that comes with the package, e.g. `dropout-1`."""

    def __post_init__(self) -> None:
        """Check the fields, and that one policy is named; raises InvalidArgument."""
        if not (self.controller or self.pretrained):
            raise invalid("controller", "is not set; name a controller, or set pretrained")
        if self.controller and self.pretrained:
            raise invalid("pretrained", "is given beside controller; leave one of the two out")
        name = "pretrained" if self.pretrained else "controller"
        check_name(getattr(self, name), NAME, longest=LONGEST_NAME, field=name)
        if self.policy_version < 0:
            raise invalid("policy_version", f"{self.policy_version} must be 0 or above")
        if self.pretrained and self.policy_version:
            raise invalid("policy_version", "is of a controller's policy; leave it out")

    def __setstate__(self, state: Sequence[object]) -> None:
        """Take the fields of a pickle, also of an older release."""
        set_fields(self, state)


def set_fields(value: Any, state: Sequence[object]) -> None:
    """Set a dataclass's fields from a pickle; those that an older release lacks have defaults."""
    known = fields(value)
    missing = [one.default for one in known[len(state) :]]
    for one, content in zip(known, [*state, *missing], strict=True):
        object.__setattr__(value, one.name, content)


class Observe(StrEnum):
    """What a policy observes."""

    LOSSES = "losses"
    """The N losses of a chunk, as in the paper, and what other settings add to them."""
    UNIVERSAL = "universal"
    """What means the same on every problem: see `controllers.universal`."""


class Stored(Protocol):
    """The stored policies and runs that a new controller's settings may take over."""

    def policy_version(self, controller: str) -> int:
        """Return the newest policy version of another controller.

        Raises:
            NotFound: it is not there.
            FailedPrecondition: its algorithm has no policy network.
        """
        ...

    def values_of(self, run_id: str) -> tuple[Mapping[str, float], ...]:
        """Return what each chunk of a finished run ran under.

        Raises:
            NotFound: it is not there.
            FailedPrecondition: it goes on, or reported nothing.
        """
        ...


class Settings:
    """An algorithm's settings, and all that is asked of any algorithm, with plain answers.

    Each is a frozen dataclass in a file of `controllers` and stands in its registry.
    """

    __slots__ = ()

    learns_from_transitions: ClassVar[bool] = False
    """Whether updates of its policy learn from the chunks of its runs."""
    learns_from_scores: ClassVar[bool] = False
    """Whether a new policy version comes of each run's final score."""

    kind: str
    """Its name in the registry, in specs and in the contract."""
    rollout_size: int = 0
    """Transitions, of all runs together, that one update learns from; 0 without updates."""
    observe: Observe = Observe.LOSSES
    """What a policy observes."""
    observe_action: bool = False
    """See what the chunk before ran under, too."""
    observe_progress: bool = False
    """See the share of the run's planned chunks that is trained; each run must tell its plan."""
    observe_scores: bool = False
    """See the newest scores (of a `given` reward: the reward) and their changes, too."""
    max_change: float | None = None
    """Take the output, times this, as a change of what the chunk before ran under.

    In units of the policy's [-1, 1], above 0 and at most 2. None takes it as the place itself.
    """
    warm_start: WarmStart | None = None
    """Begin with another controller's policy, or with one of the package; None begins anew."""

    @property
    def policy_settings(self) -> PPOSettings | None:
        """Settings of the policy network that it decides by; None for kinds without one."""
        return None

    @property
    def shipped_policy(self) -> str:
        """Name of the package's policy that it decides by, for good; empty for other kinds."""
        return ""

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the action A_t for the situation's state S_t, under the controller's `spec`.

        Equal situations give equal choices, whenever and wherever they are asked for: randomness
        comes from `draws.generator`, which is named by the situation.
        """
        raise NotImplementedError

    def check(self, hyperparameters: Sequence[Hyperparameter]) -> None:
        """Check values by hyperparameter; raises InvalidArgument naming the setting."""

    def check_size(self, spec: ControllerSpec) -> None:
        """Check what a new controller's parts come to together; each may be within its own bound.

        Stored controllers go on. Raises InvalidArgument naming the setting and those to lower.
        """

    def completed(self, there: Settings | None, stored: Stored) -> Settings:
        """Return these settings with what only the store knows filled in, for a new controller.

        Args:
            there: those of the controller that has the name already; the same call again is
                answered alike, whatever has changed in the store.
            stored: raises as its methods say.
        """
        return self

    def as_asked(self) -> Settings:
        """Return these settings without what the store filled in and finds again by itself."""
        return self


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSpec:
    """Everything that a controller is made from."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,62}`; unique in the service, for good."""
    chunk_size: int = 20
    """N: training losses in a chunk, and so the length of a state."""
    hyperparameters: tuple[Hyperparameter, ...]
    """The hyperparameters that one action sets; at least one, of different names."""
    reward: str = Reward.GAP
    """The reward to learn from, by its name in the registry of rewards."""
    diverged_reward: float | None = None
    """Reward of the action whose chunk diverged, finite; None takes the reward's worst value.

    A `given` reward has none: there a diverged run ends with its last report, unless this is set.
    """
    seed: int = 0
    """Seed of every draw; unsigned 64 bits."""
    algorithm: Settings = field(default_factory=lambda: _of_kinds("PPOSettings")())
    """How actions are decided."""

    def __post_init__(self) -> None:
        """Check the parts against one another; raises InvalidArgument naming the field."""
        check_name(self.name, NAME, longest=LONGEST_NAME)
        object.__setattr__(self, "reward", named(self.reward))
        example = "Hyperparameter('dropout', 0.0, 0.5)"
        given = several(self.hyperparameters, Hyperparameter, "hyperparameters", example)
        object.__setattr__(self, "hyperparameters", given)
        if not isinstance(self.algorithm, Settings):
            raise invalid("algorithm", f"{quoted(self.algorithm)} is none, as PPOSettings() is")
        check_kind(self.chunk_size, Integral, "chunk_size", "chunk_size=20")
        if not 1 <= self.chunk_size <= MAX_CHUNK_SIZE:
            raise invalid("chunk_size", f"{self.chunk_size} is not in [1, {MAX_CHUNK_SIZE}]")
        if not 1 <= len(self.hyperparameters) <= MAX_HYPERPARAMETERS:
            raise invalid(
                "hyperparameters", f"{len(self.hyperparameters)} given; 1 to {MAX_HYPERPARAMETERS}"
            )
        if len({h.name for h in self.hyperparameters}) < len(self.hyperparameters):
            raise invalid("hyperparameters", "two have the same name")
        if self.diverged_reward is not None and not math.isfinite(self.diverged_reward):
            raise invalid("diverged_reward", f"{self.diverged_reward} is not finite")
        if not 0 <= self.seed < 2**64:
            raise invalid("seed", f"{self.seed} is not an unsigned 64-bit integer")
        with within(f"{self.algorithm.kind}."):
            self.algorithm.check(self.hyperparameters)

    @property
    def reward_of_divergence(self) -> float | None:
        """The reward of an action whose chunk diverged; None where it earns none."""
        if self.diverged_reward is not None:
            return self.diverged_reward
        return REWARDS[self.reward].worst

    @property
    def learns_from_transitions(self) -> bool:
        """Whether updates of its policy learn from the chunks of its runs."""
        return self.algorithm.learns_from_transitions

    @property
    def learns_from_scores(self) -> bool:
        """Whether a new policy version comes of each run's final score."""
        return self.algorithm.learns_from_scores


MAX_CHUNK_SIZE = 10_000
"""Losses in a chunk at the most; a report of that length is 80 kB."""
MAX_HYPERPARAMETERS = 64
"""Hyperparameters of a controller at the most."""

_FILES = {
    "PPOSettings": "ppo",
    "FrozenStart": "ppo",
    "ConstantSettings": "constant",
    "ScheduleSettings": "schedule",
    "Shape": "schedule",
    "RandomSettings": "random",
    "BayesianSettings": "bayesian",
    "ReplaySettings": "replay",
}
"""The files of `controllers` that have what once stood here."""


def _of_kinds(name: str) -> Any:
    # By name: the domain imports nothing that stands above it.
    return getattr(import_module(f"agent_service.controllers.{_FILES[name]}"), name)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return a class that older pickles of specs name by this module."""
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _of_kinds(name)
