"""The constant controller: one value for good (Figure 2, Diagram 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.domain.checks import fields_by_name
from agent_service.domain.hyperparameters import Hyperparameter, check_values
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, Settings

if TYPE_CHECKING:
    from agent_service.domain.store import Situation


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSettings(Settings):
    """One value for each hyperparameter, for good (Figure 2, Diagram 1)."""

    kind: Literal["constant"] = "constant"
    values: Mapping[str, float]
    """By hyperparameter name, each within its range."""

    def check(self, hyperparameters: Sequence[Hyperparameter]) -> None:
        """Check each value against its range; raises InvalidArgument naming it."""
        check_values(hyperparameters, self.values, field="values")

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the constant action."""
        sample = tuple(h.unit(self.values[h.name]) for h in spec.hyperparameters)
        return Choice(sample, log_probability=0.0, explored=False)
