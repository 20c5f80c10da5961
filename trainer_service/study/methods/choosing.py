"""Base class of methods that set the values of one regularizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.training.regularizers.registry import steerable
from trainer_service.training.regularizers.regularizer import Regularizer


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
