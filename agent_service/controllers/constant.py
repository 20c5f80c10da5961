"""The constant controller: one value for good (Figure 2, Diagram 1)."""

from __future__ import annotations

from agent_service.domain.runs import Choice
from agent_service.domain.specs import ConstantSettings, ControllerSpec
from agent_service.domain.store import Situation


class ConstantController:
    """Decides the same action, whatever it sees."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take the values from a spec whose algorithm is constant."""
        assert isinstance(spec.algorithm, ConstantSettings)
        values = spec.algorithm.values
        self._sample = tuple(h.unit(values[h.name]) for h in spec.hyperparameters)

    def decide(self, situation: Situation) -> Choice:
        """Return the constant action."""
        return Choice(self._sample, log_probability=0.0, explored=False)
