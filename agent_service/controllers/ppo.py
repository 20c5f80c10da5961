"""The PPO controller's deciding half: acts by a policy version; learning happens elsewhere."""

from __future__ import annotations

from agent_service.controllers.draws import generator
from agent_service.controllers.uniform import uniform_choice
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec, FrozenStart, PPOSettings
from agent_service.domain.store import Situation
from agent_service.domain.trials import TrialHistory


class PPOController:
    """Samples from the policy while learning, and takes its mean when frozen."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take seed and settings from a spec whose algorithm is PPO."""
        assert isinstance(spec.algorithm, PPOSettings)
        self._spec = spec
        self._uniform_frozen_start = spec.algorithm.frozen_start is FrozenStart.UNIFORM

    def decide(self, situation: Situation) -> Choice:
        """Return the action: uniform at first, then sampled; the mean where the run is frozen."""
        assert not isinstance(situation.policy, TrialHistory | None)
        is_learning = situation.mode is Mode.LEARNING
        if situation.chunk == 1 and (is_learning or self._uniform_frozen_start):
            return uniform_choice(self._spec, situation)
        if not is_learning:
            mean = situation.policy.mean(situation.observation)
            return Choice(tuple(mean.tolist()), log_probability=0.0, explored=False)
        draws = generator(seed=self._spec.seed, run_id=situation.run_id, chunk=situation.chunk)
        noise = draws.standard_normal(len(self._spec.hyperparameters))
        sample, log_probability = situation.policy.sample(situation.observation, noise)
        return Choice(tuple(sample.tolist()), log_probability=log_probability, explored=True)
