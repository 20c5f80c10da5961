"""Grid search over constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.domain.errors import invalid
from trainer_service.study.methods.choosing import Choosing, Searched

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Searched):
    """The best constant of a grid, by the mean best validation score of each value's children."""

    kind: Literal["grid"] = "grid"
    values: tuple[float, ...]
    """Each gets an equal share of the budget, with the same seeds."""

    def __post_init__(self) -> None:
        """Check the values against the range."""
        Choosing.__post_init__(self)
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise invalid("values", "name at least two, each once")
        self.check_range("values", *self.values)

    def check(self, path: str, study: StudySpec) -> None:
        """Check that the budget divides evenly among the values."""
        if study.budget % len(self.values):
            raise invalid(
                f"{path}values",
                f"{len(self.values)} values cannot share {study.budget} children equally; change "
                "them or the budget",
            )

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return all values for each seed in turn, so that partial results cover all values."""
        share = study.budget // len(self.values)
        return [(value, place) for place in range(share) for value in self.values]
