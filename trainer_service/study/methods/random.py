"""Random values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.random import RandomSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.specs import Settings
from trainer_service.study.methods.choosing import Choosing, Steered

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Steered):
    """A fresh uniform draw for each chunk: the `random` controller."""

    kind: Literal["random"] = "random"
    high: float | None = None
    """Largest value; None takes the whole range's."""

    def __post_init__(self) -> None:
        """Check the largest value against the range."""
        Choosing.__post_init__(self)
        self.check_high(self.high)

    def decided(self, study: StudySpec) -> tuple[Hyperparameter, ...]:
        """Return the drawn hyperparameters, up to the largest value."""
        return self.below(self.high, Steered.decided(self, study))

    def algorithm(self, study: StudySpec) -> Settings:
        """Return the draws."""
        return RandomSettings()
