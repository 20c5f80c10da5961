"""The Bayesian controller: one value a run, proposed from earlier runs' final scores (Figure 4)."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from agent_service.controllers.draws import generator, uniform_choice
from agent_service.domain.checks import check_at_least_one, fields_by_name
from agent_service.domain.errors import invalid
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec, Settings
from agent_service.domain.trials import KEPT, TrialHistory

if TYPE_CHECKING:
    from agent_service.domain.store import Situation

MAX_CANDIDATES = 48
"""Twice Optuna's default; more would let others' reports wait for a proposal."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class BayesianSettings(Settings):
    """One value a run, proposed by Optuna's TPE from earlier runs' final scores (Figure 4).

    Names and defaults are those of Optuna's `TPESampler`. A frozen run takes the best value so far.
    """

    learns_from_scores: ClassVar[bool] = True

    kind: Literal["bayesian"] = "bayesian"
    n_startup_trials: int = 10
    """Ended runs before TPE proposes; until then values are drawn uniformly."""
    n_ei_candidates: int = 24
    """Candidates of which the most promising one is proposed."""

    def __post_init__(self) -> None:
        """Check the ranges; raises InvalidArgument naming the setting."""
        check_at_least_one("n_startup_trials", self.n_startup_trials)
        check_at_least_one("n_ei_candidates", self.n_ei_candidates)
        if self.n_startup_trials > KEPT:
            raise invalid("n_startup_trials", f"{self.n_startup_trials} must be at most {KEPT}")
        if self.n_ei_candidates > MAX_CANDIDATES:
            raise invalid(
                "n_ei_candidates", f"{self.n_ei_candidates} must be at most {MAX_CANDIDATES}"
            )

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the run's value: what it began with, or for chunk 1 a new one."""
        # A run keeps its value while others end and the newest version moves on. So no version must
        # be pinned for it, and only a run's start costs a proposal.
        if situation.previous is not None:
            return situation.previous
        history = situation.policy
        assert isinstance(history, TrialHistory)
        if situation.mode is not Mode.LEARNING:
            return _best(history)
        if len(history) < self.n_startup_trials:
            _import_optuna_beside()
            return uniform_choice(spec, situation)
        return self._proposed(history, spec, situation)

    def _proposed(
        self, history: TrialHistory, spec: ControllerSpec, situation: Situation
    ) -> Choice:
        """Return TPE's proposal, whose density it does not tell: the log probability is left 0."""
        from agent_service.controllers.tpe import propose

        draws = generator(seed=spec.seed, run_id=situation.run_id, chunk=situation.chunk)
        sample = propose(
            history, n_ei_candidates=self.n_ei_candidates, seed=int(draws.integers(2**32))
        )
        return Choice(sample, log_probability=0.0, explored=True)


def _best(history: TrialHistory) -> Choice:
    """Return the value with the best score so far; where there is none, the ranges' middle."""
    place = history.best
    width = history.samples.shape[1]
    sample = (0.0,) * width if place is None else tuple(history.samples[place].tolist())
    return Choice(sample, log_probability=0.0, explored=False)


@cache
def _import_optuna_beside() -> None:
    """Import Optuna in a thread, once, while the first runs draw their values.

    It takes half a second, which no later run's start should wait for.
    """
    module = "agent_service.controllers.tpe"
    threading.Thread(target=importlib.import_module, args=(module,), name="optuna").start()
