"""The random controller: a uniform action for each chunk, the floor for all that learns."""

from __future__ import annotations

from agent_service.controllers.uniform import uniform_choice
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Situation


class RandomController:
    """Draws each action uniformly, in every mode."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take seed and number of hyperparameters from the spec."""
        self._spec = spec

    def decide(self, situation: Situation) -> Choice:
        """Return a uniform action, drawn anew for each chunk."""
        return uniform_choice(self._spec, situation)
