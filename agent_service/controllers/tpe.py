"""Proposals by Optuna's TPE; the one file that knows Optuna. Its import takes half a second."""

from __future__ import annotations

import warnings
from collections.abc import Container
from functools import lru_cache

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from agent_service.domain.trials import TrialHistory

# It tells of each study that it makes, and one is made for each proposal.
optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(history: TrialHistory, *, n_ei_candidates: int, seed: int) -> tuple[float, ...]:
    """Return the sample to try next, in the policy's [-1, 1]; equal arguments give equal samples.

    TPE sees that range, not the values: there a log scale is linear already, so its uniform
    distributions are Optuna's log distributions of the values. Rounded to float32 precision, since
    vector math differs between machines in the last bits of float64.

    A run that diverged is a pruned trial without a report: TPE counts it behind all that have a
    score, and never takes it for a good one while there are enough of those.

    Args:
        history: at least one trial.
        n_ei_candidates: as in `TPESampler`.
        seed: unsigned 32 bits.
    """
    return _proposed(history.samples.tobytes(), history.scores.tobytes(), n_ei_candidates, seed)


@lru_cache(32)
def _proposed(samples: bytes, scores: bytes, n_ei_candidates: int, seed: int) -> tuple[float, ...]:
    """Return a proposal; kept, since 50 ms for 64 hyperparameters are spent before they count.

    Who starts a run has it made beside the event loop first (`RunService.precompute`).
    """
    told = np.frombuffer(scores)
    trained = np.frombuffer(samples).reshape(len(told), -1)
    width = trained.shape[1]
    space: dict[str, BaseDistribution] = {
        str(i): FloatDistribution(-1.0, 1.0) for i in range(width)
    }
    trials = [
        _trial(number, dict(zip(space, sample, strict=True)), space, score)
        for number, (sample, score) in enumerate(zip(trained.tolist(), told.tolist(), strict=True))
    ]
    sampler = _sampler(multivariate=width > 1, n_ei_candidates=n_ei_candidates, seed=seed)
    study = optuna.create_study(storage=_Trials(trials), sampler=sampler, direction="maximize")
    asked = _trial(len(trials), {}, {}, None)
    proposed = sampler.sample_relative(study, asked, space)
    return tuple(float(np.float32(proposed[name])) for name in space)


def _sampler(*, multivariate: bool, n_ei_candidates: int, seed: int) -> TPESampler:
    with warnings.catch_warnings():
        # Several hyperparameters at once are what "multivariate" is for, marked experimental since
        # Optuna 2.2; its version is pinned, so nothing changes under us.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            n_startup_trials=1,
            n_ei_candidates=n_ei_candidates,
            multivariate=multivariate,
            seed=seed,
        )


def _trial(
    number: int,
    params: dict[str, float],
    space: dict[str, BaseDistribution],
    score: float | None,
) -> FrozenTrial:
    """Return a trial with a score, one that diverged (NaN), or one that runs (None)."""
    state = TrialState.COMPLETE
    if score is None:
        state = TrialState.RUNNING
    elif np.isnan(score):
        state = TrialState.PRUNED
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=score if state is TrialState.COMPLETE else None,
        params=params,
        distributions=space,
        datetime_start=None,
        datetime_complete=None,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


class _Trials(InMemoryStorage):
    """A storage that holds ready trials: adding them one by one takes 20 times as long.

    That copies each twice: 20 to 65 ms for 256 trials, on the path that every report waits for.
    """

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._ready = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the ready trials; nobody changes them, so they are not copied."""
        return [trial for trial in self._ready if states is None or trial.state in states]
