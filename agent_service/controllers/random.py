"""The random controller: a uniform action for each chunk, the floor for all that learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.draws import uniform_choice
from agent_service.domain.checks import fields_by_name
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, Settings

if TYPE_CHECKING:
    from agent_service.domain.store import Situation


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSettings(Settings):
    """A fresh uniform draw from the range for each chunk: the floor that learning must beat."""

    kind: Literal["random"] = "random"

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return a uniform action, drawn anew for each chunk, in every mode."""
        return uniform_choice(spec, situation)
