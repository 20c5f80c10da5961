"""Base classes of methods that set the values of one regularizer, and of those with a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import TUNING_SEEDS
from trainer_service.training.regularizers.registry import steerable
from trainer_service.training.regularizers.regularizer import Regularizer

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing(Entry):
    """A method that sets the values of one regularizer."""

    regularizer: str = "dropout"

    def __post_init__(self) -> None:
        """Check that the regularizer has values to set."""
        Entry.__post_init__(self)
        steerable(self.regularizer)

    @property
    def chosen(self) -> Regularizer:
        """The regularizer."""
        return steerable(self.regularizer)

    @property
    def strength(self) -> Hyperparameter:
        """Name and range of the value that drives all of its sites."""
        return self.chosen.strength

    def check_range(self, field: str, *values: float) -> None:
        """Check values against the range; raises InvalidArgument."""
        low, high = self.strength.low, self.strength.high
        for value in values:
            if not low <= value <= high:
                raise invalid(field, f"{value} is not in [{low}, {high}]")

    def check_high(self, high: float | None) -> None:
        """Check an optional upper bound against the range; raises InvalidArgument."""
        low, highest = self.strength.low, self.strength.high
        if high is not None and not low < high <= highest:
            raise invalid("high", f"{high} is not in ({low}, {highest}]")

    def below(
        self, high: float | None, decided: tuple[Hyperparameter, ...]
    ) -> tuple[Hyperparameter, ...]:
        """Return hyperparameters with an optional upper bound applied."""
        return decided if high is None else tuple(replace(one, high=high) for one in decided)

    def fixed(self, name: str, values: dict[str, float]) -> Fixed:
        """Return a method with fixed values of the regularizer."""
        return Fixed(name=name, method=self.chosen.fixed.lower(), values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted(Choosing):
    """A method that trains children before it is judged: a search, or a controller that learns."""

    budget: int | None = None
    """Children that it trains before; None for the study's budget."""

    def __post_init__(self) -> None:
        """Check the budget."""
        Choosing.__post_init__(self)
        if self.budget is not None and not 1 <= self.budget <= TUNING_SEEDS:
            raise invalid("budget", f"{self.budget} is not in [1, {TUNING_SEEDS}]")

    def tuned_children(self, study: StudySpec) -> int:
        """Return its own budget or the study's."""
        return study.budget if self.budget is None else self.budget
