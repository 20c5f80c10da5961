"""Random values for each chunk."""

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
    """Upper bound; None for that of the range."""

    def __post_init__(self) -> None:
        """Check the upper bound against the range."""
        Choosing.__post_init__(self)
        self.check_high(self.high)

    def decided(self, study: StudySpec) -> tuple[Hyperparameter, ...]:
        """Return the hyperparameters, with the upper bound applied."""
        return self.below(self.high, Steered.decided(self, study))

    def algorithm(self, study: StudySpec) -> Settings:
        """Return uniform draws."""
        return RandomSettings()
