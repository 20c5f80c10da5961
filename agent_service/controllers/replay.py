"""The replay controller: what a stored run's chunks ran under, again."""

from __future__ import annotations

from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, ReplaySettings
from agent_service.domain.store import Situation


class ReplayController:
    """Decides by the chunk index what was decided, or applied, before."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take the values from a spec whose algorithm is a replay, filled in."""
        assert isinstance(spec.algorithm, ReplaySettings)
        self._values = spec.algorithm.values
        self._hyperparameters = spec.hyperparameters

    def decide(self, situation: Situation) -> Choice:
        """Return the action of the situation's chunk; past the run's end, of its last."""
        values = self._values[min(situation.chunk, len(self._values)) - 1]
        sample = tuple(h.unit(values[h.name]) for h in self._hyperparameters)
        return Choice(sample, log_probability=0.0, explored=False)
