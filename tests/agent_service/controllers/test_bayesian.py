"""A Bayesian controller's proposals, and the trials that they follow from."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.draws import generator, uniform_choice
from agent_service.domain.hyperparameters import Hyperparameter, Scale, named_values
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Situation
from agent_service.domain.trials import KEPT, TrialHistory, no_trials
from tests.agent_service.specs import DROPOUT, NOISE, spec

LOG = Hyperparameter(name="rate", low=1e-4, high=1.0, scale=Scale.LOG)


def of(*hyperparameters: Hyperparameter, startup: int = 10, seed: int = 7) -> ControllerSpec:
    settings = BayesianSettings(n_startup_trials=startup)
    return spec(algorithm=settings, hyperparameters=hyperparameters, seed=seed)


def decide(of: ControllerSpec, situation: Situation) -> Choice:
    return of.algorithm.decide(of, situation)


def start(history: TrialHistory, *, run_id: str = "r", mode: Mode = Mode.LEARNING) -> Situation:
    return Situation(
        run_id=run_id,
        chunk=1,
        observation=np.zeros(4),
        mode=mode,
        previous=None,
        policy=history,
    )


def drawn(trials: int, width: int, *, score: Callable[[np.ndarray], float]) -> TrialHistory:
    samples = np.random.default_rng(trials).uniform(-1, 1, (trials, width))
    return TrialHistory(samples, np.array([score(sample) for sample in samples]))


def bowl(sample: np.ndarray | tuple[float, ...]) -> float:
    """A score in [-1, 1] whose best is at 0.6 of each range, in the policy's [-1, 1]."""
    return 1 - float(np.mean((np.array(sample) - 0.6) ** 2))


def test_values_are_uniform_until_enough_runs_have_ended() -> None:
    """Diverged ones count; with one more, TPE proposes."""
    few = TrialHistory(np.array([[0.5]] * 9), np.array([0.5, math.nan, *[0.25] * 7]))
    made = of(DROPOUT)

    assert decide(made, start(few)) == uniform_choice(of(DROPOUT), start(few))
    enough = few.with_trial((0.5,), math.nan)
    assert decide(made, start(enough)) != uniform_choice(of(DROPOUT), start(enough))


def test_a_run_keeps_its_value() -> None:
    """Whatever version is the newest by then, in every mode."""
    value = Choice((0.125,), log_probability=-1.0, explored=True)
    for mode in Mode:
        later = Situation(
            run_id="r",
            chunk=2,
            observation=np.ones(4),
            mode=mode,
            previous=value,
            policy=drawn(30, 1, score=bowl),
        )
        assert decide(of(DROPOUT), later) == value


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.SHADOW])
def test_a_frozen_run_takes_the_best_value(mode: Mode) -> None:
    """The same for every run; the middle of each range where no run has a score."""
    made = of(DROPOUT, NOISE)
    samples = np.array([[0.5, -0.5], [0.25, 0.75], [-1.0, 1.0]])

    best = decide(made, start(TrialHistory(samples, np.array([0.1, 0.3, 0.2])), mode=mode))
    none = [
        decide(made, start(history, mode=mode))
        for history in (no_trials(2), TrialHistory(samples, np.full(3, math.nan)))
    ]

    assert best == Choice((0.25, 0.75), log_probability=0.0, explored=False)
    assert none == [Choice((0.0, 0.0), log_probability=0.0, explored=False)] * 2


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("hyperparameters", [(LOG,), (DROPOUT, LOG)])
def test_proposals_are_optunas_own(hyperparameters: tuple[Hyperparameter, ...]) -> None:
    """Return Optuna's proposal from the same trials: log distributions, multivariate if several."""
    made = of(*hyperparameters)
    history = drawn(40, len(hyperparameters), score=bowl)
    history.scores[3::9] = math.nan
    seed = int(generator(seed=made.seed, run_id="r", chunk=1).integers(2**32))
    space: dict[str, optuna.distributions.BaseDistribution] = {
        h.name: optuna.distributions.FloatDistribution(h.low, h.high, log=h.scale is Scale.LOG)
        for h in hyperparameters
    }
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=len(space) > 1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for sample, score in zip(history.samples, history.scores, strict=True):
        pruned = math.isnan(score)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                value=None if pruned else score,
                params=named_values(hyperparameters, sample.tolist()),
                distributions=space,
            )
        )

    choice = decide(made, start(history))

    proposed = named_values(hyperparameters, choice.sample)
    assert proposed == pytest.approx(study.ask(space).params, rel=1e-5)
    assert choice.explored


def test_where_runs_diverged_no_more_are_sent() -> None:
    """Below the middle every run diverged: nearly all proposals are above it."""
    history = drawn(30, 1, score=lambda sample: math.nan if sample[0] < 0 else bowl(sample))
    made = of(DROPOUT)

    proposed = [decide(made, start(history, run_id=f"r{i}")).sample[0] for i in range(50)]

    assert sum(sample < 0 for sample in proposed) <= 2


def test_where_all_diverged_proposals_go_on() -> None:
    """Trials without any score are no error."""
    history = drawn(KEPT, 2, score=lambda _sample: math.nan)

    choice = decide(of(DROPOUT, NOISE), start(history))

    assert np.abs(choice.sample).max() <= 1


def regret(seed: int, *, startup: int) -> float:
    """How far the best of 40 runs is from the best score there is."""
    made = of(DROPOUT, NOISE, startup=startup, seed=seed)
    history = no_trials(2)
    for run in range(40):
        sample = decide(made, start(history, run_id=f"r{run}")).sample
        history = history.with_trial(sample, bowl(sample))
    return 1 - bowl(decide(made, start(history, mode=Mode.FROZEN)).sample)


def test_it_finds_the_best_value_sooner_than_chance() -> None:
    """Over 20 seeds, each against uniform draws that begin alike: at most half as far from it."""
    pairs = np.array([(regret(seed, startup=10), regret(seed, startup=256)) for seed in range(20)])

    proposed, by_chance = pairs.T
    assert proposed.mean() < by_chance.mean() / 2
    assert (proposed <= by_chance).sum() >= 15


def test_optuna_tells_nothing_and_warns_of_nothing() -> None:
    """A service's log is not full of its studies, nor of its experimental arguments."""
    code = """
import numpy as np
from agent_service.controllers.tpe import propose
from agent_service.domain.trials import TrialHistory
history = TrialHistory(np.array([[0.5, 0.5], [0.25, 0.0]]), np.array([1.0, 2.0]))
propose(history, n_ei_candidates=24, seed=1)
"""
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )

    assert shown.stdout + shown.stderr == ""
