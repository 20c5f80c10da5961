"""Which children a study trains, as specs: pure functions of the study and of what is finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.random import RandomSettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, Settings
from trainer_service.run import RunSpec
from trainer_service.study.entries import (
    Bayesian,
    Drawn,
    Entry,
    Fixed,
    Grid,
    Learned,
    RandomSearch,
    Scheduled,
)
from trainer_service.study.results.results import Key, Phase
from trainer_service.study.spec import TUNING_SEEDS, StudySpec
from trainer_service.training.regularizers.registry import REGULARIZERS
from trainer_service.training.regularizers.regularizer import Regularizer
from trainer_service.training.spec import Sites, TrainingSpec, hyperparameters

Steering = Learned | Bayesian | Scheduled | Drawn
"""Methods whose children have a controller of the method's own form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child that a study trains."""

    key: Key
    run_id: str
    spec: RunSpec


def run_id(study: str, key: Key) -> str:
    """Return the id of a study's run, at both services."""
    return f"{study}-{key.method}-{key.phase}-{key.index}"


def controller_name(study: str, entry: Entry, seed: int | None = None) -> str:
    """Return the name of a method's controller; a replay has one for each seed."""
    return f"{study}-{entry.name}" + ("" if seed is None else f"-{seed}")


def tuning(study: str, spec: StudySpec, entry: Entry) -> list[Child]:
    """Return the children that a method trains before it is judged; none where it tunes nothing."""
    count = spec.budget_of(entry)
    match entry:
        case Grid():
            share = count // len(entry.values)
            # Value by value within a seed, so that a part of them is of all values alike.
            trained = [
                _fixed(spec, entry.chosen, value, TUNING_SEEDS + place)
                for place in range(share)
                for value in entry.values
            ]
        case RandomSearch():
            strength = entry.chosen.strength
            rng = np.random.default_rng(spec.training.data_seed)
            draws = rng.uniform(strength.low, strength.high, count)
            trained = [
                _fixed(spec, entry.chosen, float(value), TUNING_SEEDS + place)
                for place, value in enumerate(draws)
            ]
        case Bayesian() | Learned():
            name = controller_name(study, entry)
            trained = [
                _steered(spec, entry, name, Mode.LEARNING, TUNING_SEEDS + place)
                for place in range(count)
            ]
        case _:
            trained = []
    return [_child(study, entry, Phase.TUNING, i, run) for i, run in enumerate(trained)]


def judged_fixed(
    study: str, spec: StudySpec, entry: Entry, seed: int, values: Mapping[str, float]
) -> Child:
    """Return a judged child under fixed values; of a `Fixed` method, its own."""
    if isinstance(entry, Fixed):
        training = replace(spec.training, method=entry.method, values=entry.values, seed=seed)
    else:
        training = replace(_with_values(spec.training, values), seed=seed)
    return _child(study, entry, Phase.JUDGED, seed, RunSpec(training=training))


def judged_steered(
    study: str, spec: StudySpec, entry: Entry, seed: int, *, controller: str, like: Steering
) -> Child:
    """Return a judged child under a frozen controller of the form that `like` has."""
    run = _steered(spec, like, controller, Mode.FROZEN, seed)
    return _child(study, entry, Phase.JUDGED, seed, run)


def controller_spec(study: str, spec: StudySpec, entry: Steering) -> ControllerSpec:
    """Return the controller of a method."""
    return ControllerSpec(
        name=controller_name(study, entry),
        chunk_size=spec.training.chunk_size,
        hyperparameters=_hyperparameters(spec, entry),
        reward=entry.reward if isinstance(entry, Learned) else Reward.GAP,
        seed=spec.training.data_seed,
        algorithm=_algorithm(spec, entry),
    )


def _hyperparameters(spec: StudySpec, entry: Steering) -> tuple[Hyperparameter, ...]:
    whole = hyperparameters(_steered_training(spec, entry))
    high = entry.high if isinstance(entry, Learned | Drawn) else None
    return whole if high is None else tuple(replace(one, high=high) for one in whole)


def _algorithm(spec: StudySpec, entry: Steering) -> Settings:
    match entry:
        case Learned():
            return entry.ppo
        case Bayesian():
            return BayesianSettings()
        case Drawn():
            return RandomSettings()
        case Scheduled():
            return _schedule(spec, entry)


def _schedule(spec: StudySpec, entry: Scheduled) -> ScheduleSettings:
    assert spec.training.chunks is not None
    chunks = round(spec.training.chunks * entry.until)
    name = entry.chosen.strength.name
    return ScheduleSettings(
        shape=entry.course,
        start={name: entry.start},
        end={name: entry.end},
        # A step comes after its share of the chunks, all else arrives with the last of them.
        chunks=max(2, chunks + (entry.course is Shape.STEP)),
    )


def _with_values(training: TrainingSpec, values: Mapping[str, float]) -> TrainingSpec:
    """Return a training under fixed values, of one hyperparameter or of one a site."""
    for regularizer in REGULARIZERS.values():
        for sites in Sites:
            names = regularizer.hyperparameters(each=sites is Sites.EACH)
            if values.keys() == {one.name for one in names}:
                method = regularizer.fixed.lower()
                return replace(training, method=method, sites=sites, values=values)
    raise AssertionError(f"no regularizer has the values {sorted(values)}")


def _fixed(spec: StudySpec, regularizer: Regularizer, value: float, seed: int) -> RunSpec:
    training = _with_values(spec.training, {regularizer.strength.name: value})
    return RunSpec(training=replace(training, seed=seed))


def _steered(spec: StudySpec, entry: Steering, controller: str, mode: Mode, seed: int) -> RunSpec:
    training = replace(_steered_training(spec, entry), seed=seed)
    return RunSpec(training=training, controller=controller, mode=mode)


def _steered_training(spec: StudySpec, entry: Steering) -> TrainingSpec:
    sites = entry.sites if isinstance(entry, Learned) else Sites.SHARED
    return replace(spec.training, method=entry.chosen.steered.lower(), sites=sites, values={})


def _child(study: str, entry: Entry, phase: Phase, index: int, spec: RunSpec) -> Child:
    key = Key(method=entry.name, phase=phase, index=index)
    # One judged child of each method is looked at: what it attends to in an image.
    is_kept = phase is Phase.JUDGED and index == 0
    return Child(key=key, run_id=run_id(study, key), spec=replace(spec, keep=is_kept))
