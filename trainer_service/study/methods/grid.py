"""Grid search."""

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
    """The budget's children are shared out equally; the same seeds for each value."""

    def __post_init__(self) -> None:
        """Check the values against the range."""
        Choosing.__post_init__(self)
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise invalid("values", "name at least two, each once")
        self.check_range("values", *self.values)

    def check(self, path: str, study: StudySpec) -> None:
        """Check that the values can share the budget."""
        if study.budget % len(self.values):
            raise invalid(
                f"{path}values",
                f"{len(self.values)} values cannot share {study.budget} children equally; change "
                "them or the budget",
            )

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return value by value within a seed, so that a part of them is of all values alike."""
        share = study.budget // len(self.values)
        return [(value, place) for place in range(share) for value in self.values]
