"""Searches for a constant: a grid, and random draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_service.domain.errors import invalid
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.choosing import Budgeted
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import TUNING_SEEDS, Phase, Plan

if TYPE_CHECKING:
    from trainer_service.study.methods.carried import Carried
    from trainer_service.study.results.results import Result
    from trainer_service.study.spec import StudySpec


class Searched(Budgeted):
    """A search for the constant with the best mean validation score of its children."""

    __slots__ = ()
    is_search = True

    @abstractmethod
    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return the constant of each child of the budget, and the offset of its seed."""

    def tuning(self, plan: Plan) -> list[RunSpec]:
        """Return a run for each constant tried."""
        return [
            self._under(value).run(plan.spec, TUNING_SEEDS + place)
            for value, place in self.tried(plan.spec)
        ]

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run with the best constant, once the whole budget is finished."""
        tuned = plan.finished(self.name, Phase.TUNING)
        if len(tuned) < self.tuned_children(plan.spec):
            return None
        return self._under(self.best(tuned)).run(plan.spec, seed)

    def _under(self, value: float) -> Fixed:
        return self.fixed(self.name, {self.strength.name: value})

    def best(self, tuned: Sequence[Result]) -> float:
        """Return the best constant of its results, at least one, in order."""
        scores: dict[float, list[float]] = {}
        for result in tuned:
            value = result.spec.training.values[self.strength.name]
            scores.setdefault(value, []).append(result.finished.scores.validation_score_best)
        return max(scores, key=lambda value: float(np.mean(scores[value])))

    def carried(self, taker: Carried, there: Plan, study: StudySpec) -> Entry:
        """Return a method with the best constant."""
        tuned = there.finished(self.name, Phase.TUNING)
        if len(tuned) < self.tuned_children(there.spec):
            raise invalid("of", f"{self.name!r} is not finished in {taker.study}")
        return self.fixed(taker.name, {self.strength.name: self.best(tuned)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Searched):
    """The best constant of a grid, by the mean best validation score of each value's children."""

    kind: Literal["grid"] = "grid"
    values: tuple[float, ...]
    """Each gets an equal share of the budget, with the same seeds."""

    def __post_init__(self) -> None:
        """Check the values against the range."""
        Budgeted.__post_init__(self)
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise invalid("values", "name at least two, each once")
        self.check_range("values", *self.values)

    def check(self, path: str, study: StudySpec) -> None:
        """Check that the budget divides evenly among the values."""
        children = self.tuned_children(study)
        if children % len(self.values):
            raise invalid(
                f"{path}values",
                f"{len(self.values)} values cannot share {children} children equally; change "
                "them or the budget",
            )

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return all values for each seed in turn, so that partial results cover all values."""
        share = self.tuned_children(study) // len(self.values)
        return [(value, place) for place in range(share) for value in self.values]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch(Searched):
    """The best of uniformly drawn constants, by its one child's best validation score."""

    kind: Literal["random-search"] = "random-search"

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return constants drawn with the data seed."""
        rng = np.random.default_rng(study.training.data_seed)
        draws = rng.uniform(self.strength.low, self.strength.high, self.tuned_children(study))
        return [(float(value), place) for place, value in enumerate(draws)]
