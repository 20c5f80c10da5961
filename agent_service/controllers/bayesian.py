"""The Bayesian controller: one value a run, proposed from earlier runs' final scores (Figure 4)."""

from __future__ import annotations

import importlib
import threading
from functools import cache

from agent_service.controllers.draws import generator
from agent_service.controllers.uniform import uniform_choice
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import BayesianSettings, ControllerSpec
from agent_service.domain.store import Situation
from agent_service.domain.trials import TrialHistory


class BayesianController:
    """Proposes a value by Optuna's TPE while learning, and takes the best one when frozen."""

    def __init__(self, spec: ControllerSpec) -> None:
        """Take seed and settings from a spec whose algorithm is Bayesian."""
        assert isinstance(spec.algorithm, BayesianSettings)
        self._spec = spec
        self._settings = spec.algorithm
        _import_optuna_beside()

    def decide(self, situation: Situation) -> Choice:
        """Return the run's value: what it began with, or for chunk 1 a new one."""
        # A run keeps its value while others end and the newest version moves on. So no version must
        # be pinned for it, and only a run's start costs a proposal.
        if situation.previous is not None:
            return situation.previous
        history = situation.policy
        assert isinstance(history, TrialHistory)
        if situation.mode is not Mode.LEARNING:
            return self._best(history)
        if len(history) < self._settings.n_startup_trials:
            return uniform_choice(self._spec, situation)
        return self._proposed(history, situation)

    def _best(self, history: TrialHistory) -> Choice:
        """Return the value with the best score so far; where there is none, the ranges' middle."""
        sample = (0.0,) * len(self._spec.hyperparameters)
        if history.best is not None:
            sample = tuple(history.samples[history.best].tolist())
        return Choice(sample, log_probability=0.0, explored=False)

    def _proposed(self, history: TrialHistory, situation: Situation) -> Choice:
        """Return TPE's proposal, whose density it does not tell: the log probability is left 0."""
        from agent_service.controllers.tpe import propose

        draws = generator(seed=self._spec.seed, run_id=situation.run_id, chunk=situation.chunk)
        sample = propose(
            history,
            n_ei_candidates=self._settings.n_ei_candidates,
            seed=int(draws.integers(2**32)),
        )
        return Choice(sample, log_probability=0.0, explored=True)


@cache
def _import_optuna_beside() -> None:
    """Import Optuna in a thread, once, when the first of these controllers is made.

    Decisions are made one at a time: nobody's report should wait the half second that it takes.
    """
    module = "agent_service.controllers.tpe"
    threading.Thread(target=importlib.import_module, args=(module,), name="optuna").start()
