"""What another study chose or learned, for children of this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.domain.errors import invalid
from trainer_service.study.entries import Bayesian, Carried, Grid, Learned, RandomSearch
from trainer_service.study.methods.choices import Values, best_constant
from trainer_service.study.results.results import Phase, ResultsFolder
from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A constant that was searched for."""

    values: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that was learned, frozen."""

    like: Learned | Bayesian
    """The method that it is of."""
    data: bytes
    """Its file."""


def source_of(entry: Carried, spec: StudySpec) -> Constant | Policy:
    """Return what the other study has.

    Raises:
        AgentError: there is no such study.
        InvalidArgument: it has no such method, has not finished it, or has other chunks.
    """
    folder = ResultsFolder(Path(entry.study))
    other = folder.study().spec
    like = next((e for e in other.methods if e.name == entry.of), None)
    if not isinstance(like, Grid | RandomSearch | Bayesian | Learned):
        raise invalid("of", f"{entry.of!r} is no search and no learned method of {entry.study}")
    if isinstance(like, Grid | RandomSearch):
        tuning = [
            result
            for result in folder.results()
            if result.key.method == like.name and result.key.phase is Phase.TUNING
        ]
        if len(tuning) < other.budget_of(like):
            raise invalid("of", f"{entry.of!r} is not finished in {entry.study}")
        return Constant(values=best_constant(like, tuning))
    data = folder.policy(like.name)
    if data is None:
        raise invalid("of", f"{entry.of!r} has no frozen policy in {entry.study}, yet")
    if other.training.chunk_size != spec.training.chunk_size:
        raise invalid(
            "of",
            f"{entry.of!r} decides from {other.training.chunk_size} losses a chunk, children here "
            f"have {spec.training.chunk_size}; set the same chunk_size",
        )
    return Policy(like=like, data=data)
