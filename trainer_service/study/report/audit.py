"""What a study plans for its children, beside what their results say they were trained under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainer_service.run import RunSpec
from trainer_service.study.entries import (
    Carried,
    Entry,
    Fixed,
    Grid,
    MeanOf,
    Population,
    RandomSearch,
    Replayed,
)
from trainer_service.study.methods.choices import best_constant, mean_values
from trainer_service.study.methods.plan import controller_name, judged_fixed, judged_steered, tuning
from trainer_service.study.results.results import Phase, Result, Study
from trainer_service.study.spec import StudySpec


def departs(result: Result, study: Study, results: Sequence[Result]) -> bool:
    """Return whether a result's run was of another spec than the study plans for it.

    Args:
        result: one of `results`.
        study: that it stands in.
        results: all of the study; what was chosen is derived again from them.
    """
    planned = _planned(result, study, results)
    return planned is not None and _named_alike(planned) != _named_alike(result.spec)


def _named_alike(spec: RunSpec) -> RunSpec:
    # Controllers are named after a part's id, up to the first hyphen; merged parts have several.
    # What a child leaves behind changes nothing of it.
    return replace(spec, controller=spec.controller.partition("-")[2], keep=False)


def _planned(result: Result, study: Study, results: Sequence[Result]) -> RunSpec | None:
    """Return what the study plans; None where that does not follow from its own results."""
    key, spec = result.key, study.spec
    entry = next((entry for entry in spec.methods if entry.name == key.method), None)
    if entry is None:
        return None
    if key.phase is Phase.TUNING:
        children = tuning(study.id, spec, entry)
        return children[key.index].spec if key.index < len(children) else None
    if isinstance(entry, Carried):
        return _planned_carried(result, spec)
    return _planned_judged(entry, key.index, study, results)


def _planned_carried(result: Result, spec: StudySpec) -> RunSpec:
    """Return the study's own training under what was carried over, which the other study tells."""
    had = result.spec.training
    training = replace(
        spec.training,
        method=had.method,
        sites=had.sites,
        values=had.values,
        seed=result.key.index,
    )
    return replace(result.spec, training=training)


def _planned_judged(
    entry: Entry, seed: int, study: Study, results: Sequence[Result]
) -> RunSpec | None:
    spec = study.spec

    def of(name: str, phase: Phase) -> list[Result]:
        return [r for r in results if r.key.method == name and r.key.phase is phase]

    match entry:
        case Population():
            return None
        case Fixed():
            return judged_fixed(study.id, spec, entry, seed, {}).spec
        case Grid() | RandomSearch():
            children = of(entry.name, Phase.TUNING)
            if len(children) < spec.budget_of(entry):
                return None
            return judged_fixed(study.id, spec, entry, seed, best_constant(entry, children)).spec
        case MeanOf():
            source = of(entry.of, Phase.JUDGED)
            if len(source) < spec.seeds:
                return None
            return judged_fixed(study.id, spec, entry, seed, mean_values(source)).spec
        case Replayed():
            like = spec.entry(entry.of)
            name = controller_name(study.id, entry, seed)
        case _:
            like, name = entry, controller_name(study.id, entry)
    return judged_steered(study.id, spec, entry, seed, controller=name, like=like).spec  # type: ignore[arg-type]
