"""What a study compares: the kinds of its entries, each a way to choose a child's regularization.

An entry is called a method in a study file. `regularizer` says what is chosen: the drop rate
(`dropout`) or the noise's standard deviation (`noise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.schedule import Shape
from agent_service.domain.checks import check_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import NAME
from agent_service.domain.rewards import REWARDS, Reward
from trainer_service.study.plain import shortened
from trainer_service.training.regularizers.registry import steerable, training_method
from trainer_service.training.regularizers.regularizer import Regularizer
from trainer_service.training.spec import Sites

LONGEST_NAME = 40
"""Characters of an entry's name: a controller's has room for the study's id, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """What all entries have."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,39}`; unique in the study."""
    title: str = ""
    """For tables and pictures; empty takes the name."""
    tunes: ClassVar[bool] = False
    """Whether children are trained first, to choose or learn from."""

    def __post_init__(self) -> None:
        """Check the name."""
        check_name(self.name, NAME, longest=LONGEST_NAME)

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return shortened(self.title) or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choosing(_Named):
    """What all entries have that decide values of one regularizer."""

    regularizer: str = "dropout"

    def __post_init__(self) -> None:
        """Check that its values can be decided."""
        _Named.__post_init__(self)
        steerable(self.regularizer)

    @property
    def chosen(self) -> Regularizer:
        """What its regularizer is."""
        return steerable(self.regularizer)

    def _check_range(self, field: str, *values: float) -> None:
        low, high = self.chosen.strength.low, self.chosen.strength.high
        for value in values:
            if not low <= value <= high:
                raise invalid(field, f"{value} is not in [{low}, {high}]")

    def _check_high(self, high: float | None) -> None:
        low, highest = self.chosen.strength.low, self.chosen.strength.high
        if high is not None and not low < high <= highest:
            raise invalid("high", f"{high} is not in ({low}, {highest}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(_Named):
    """Vanilla, NI, D or DNI, with values that were fixed before anything was trained."""

    kind: Literal["fixed"] = "fixed"
    method: str
    values: Mapping[str, float] = field(default_factory=dict)
    """As of `TrainingSpec`; empty takes its defaults."""

    def __post_init__(self) -> None:
        """Check that no controller would be needed."""
        _Named.__post_init__(self)
        if training_method(self.method).is_reinforced:
            raise invalid("method", f"{self.method} has a controller; use a kind that names one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(_Choosing):
    """The best constant of a grid, by the mean best validation score of each value's children."""

    kind: Literal["grid"] = "grid"
    tunes: ClassVar[bool] = True
    values: tuple[float, ...]
    """The budget's children are shared out equally; the same seeds for each value."""

    def __post_init__(self) -> None:
        """Check the values against the range."""
        _Choosing.__post_init__(self)
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise invalid("values", "name at least two, each once")
        self._check_range("values", *self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch(_Choosing):
    """The best of uniformly drawn constants, by its one child's best validation score."""

    kind: Literal["random-search"] = "random-search"
    tunes: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bayesian(_Choosing):
    """The best constant that Optuna's TPE proposed, by final validation scores (Figure 4)."""

    kind: Literal["bayesian"] = "bayesian"
    tunes: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(_Choosing):
    """A hand-made schedule (Figure 2, Diagram 2)."""

    kind: Literal["schedule"] = "schedule"
    course: Shape
    start: float
    """Value of chunk 1."""
    end: float
    """Value from `until` on."""
    until: float = 1.0
    """Where `end` is reached, as a share of the training in (0, 1]."""

    def __post_init__(self) -> None:
        """Check both values against the range."""
        _Choosing.__post_init__(self)
        self._check_range("start", self.start)
        self._check_range("end", self.end)
        if not 0 < self.until <= 1:
            raise invalid("until", f"{self.until} is not in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(_Choosing):
    """A fresh uniform draw for each chunk: the `random` controller."""

    kind: Literal["random"] = "random"
    high: float | None = None
    """Largest value; None takes the whole range's."""

    def __post_init__(self) -> None:
        """Check the largest value against the range."""
        _Choosing.__post_init__(self)
        self._check_high(self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(_Choosing):
    """A PPO policy that learns on the budget's children, is frozen, and judged: RNI or RD."""

    kind: Literal["ppo"] = "ppo"
    tunes: ClassVar[bool] = True
    sites: Sites = Sites.SHARED
    """One value for all sites, or one for each."""
    reward: Reward = Reward.GAP
    """What it learns from; the paper's by default."""
    high: float | None = None
    """Largest value that it may choose; None takes the whole range's."""
    budget: int | None = None
    """Children that it learns on, of all runs together; None takes the study's budget."""
    ppo: PPOSettings = field(default_factory=PPOSettings)

    def __post_init__(self) -> None:
        """Check the largest value, the budget and the reward."""
        _Choosing.__post_init__(self)
        self._check_high(self.high)
        if self.budget is not None and self.budget < 1:
            raise invalid("budget", f"{self.budget} must be at least 1")
        if REWARDS[self.reward].is_given:
            raise invalid("reward", "a child tells its scores; use gap, validation or improvement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(_Named):
    """The schedule of another entry's judged run on a child of another seed.

    Is it the policy, or just its schedule? Shuffled, the values of its chunks come in a random
    order: their distribution without order or reaction, as if the policy saw other times' states.
    """

    kind: Literal["replay"] = "replay"
    of: str
    """The entry: a learned one."""
    shuffled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOf(_Named):
    """A constant: the mean of all values that another entry's judged runs trained under."""

    kind: Literal["mean"] = "mean"
    of: str
    """The entry: a learned one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried(_Named):
    """What another study chose or learned, frozen, on this study's children."""

    kind: Literal["carried"] = "carried"
    study: str
    """The other study's folder of results."""
    of: str
    """Its entry: a constant that was searched for, or a learned policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Population(_Choosing):
    """Population based training (Jaderberg et al. 2017): weights and values of the best go on."""

    kind: Literal["pbt"] = "pbt"
    members: int = 8
    """Children of each judged population, at least 2."""
    round_chunks: int = 5
    """Chunks between two selections."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        _Choosing.__post_init__(self)
        for name, least in (("members", 2), ("round_chunks", 1)):
            if getattr(self, name) < least:
                raise invalid(name, f"{getattr(self, name)} must be at least {least}")


Entry = (
    Fixed
    | Grid
    | RandomSearch
    | Bayesian
    | Scheduled
    | Drawn
    | Learned
    | Replayed
    | MeanOf
    | Carried
    | Population
)
KINDS: dict[str, type] = {
    "fixed": Fixed,
    "grid": Grid,
    "random-search": RandomSearch,
    "bayesian": Bayesian,
    "schedule": Scheduled,
    "random": Drawn,
    "ppo": Learned,
    "replay": Replayed,
    "mean": MeanOf,
    "carried": Carried,
    "pbt": Population,
}
"""By the word that a study file uses."""
