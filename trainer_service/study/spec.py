"""Studies: methods compared on the same fresh children, each with the same budget.

Children have seeds: judged ones 0, 1, ..., the same for all methods, so that scores are paired;
children for searching and learning TUNING_SEEDS, ..., on which no method is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import invalid
from agent_service.domain.rewards import Reward
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.learning import Learned
from trainer_service.study.methods.plan import TUNING_SEEDS
from trainer_service.study.methods.registry import read_entry, write_entry
from trainer_service.training.regularizers.registry import training_method
from trainer_service.training.spec import TrainingSpec

MAX_METHODS = 200
"""More are no picture, and take hours to compare."""
SIGNIFICANCE = 0.05
"""Level of the family of all tests together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A study; raises InvalidArgument naming the field that is wrong."""

    title: str = ""
    """Title of its report; empty takes the data set's name."""
    seeds: int = 5
    """Fresh children that each method is judged on."""
    budget: int = 40
    """Children that each search, and each controller, may train before it is judged."""
    training: TrainingSpec
    """Shared by all children; method, values and seed are set for each."""
    methods: tuple[Annotated[Entry, PlainValidator(read_entry), PlainSerializer(write_entry)], ...]
    """The methods compared, in the order of tables and pictures."""
    references: tuple[str, ...] = ()
    """Names of methods that all others are compared with, seed by seed."""
    tests: tuple[str, ...] = ()
    """Names of methods whose difference to each reference is tested (Wilcoxon, Holm)."""

    def __post_init__(self) -> None:
        """Check counts, and that every name that is mentioned is there."""
        names = names_of(self)
        if not names:
            raise invalid("methods", "is empty; name at least one")
        for place, name in enumerate(names):
            if name in names[:place]:
                raise invalid(
                    f"methods[{place}].name",
                    f"{name!r} is there twice; give each method a name of its own",
                )
        if len(names) > MAX_METHODS:
            raise invalid("methods", f"{len(names)} are too many; compare at most {MAX_METHODS}")
        if not 1 <= self.seeds <= TUNING_SEEDS:
            raise invalid("seeds", f"{self.seeds} is not in [1, {TUNING_SEEDS}]")
        if not 1 <= self.budget <= TUNING_SEEDS:
            raise invalid("budget", f"{self.budget} is not in [1, {TUNING_SEEDS}]")
        for name in ("references", "tests"):
            for other in getattr(self, name):
                if other not in names:
                    text = f"{other!r} is not one of the methods: {', '.join(names)}"
                    raise invalid(name, text)
        self._check_tests()
        for place, entry in enumerate(self.methods):
            entry.check(f"methods[{place}].", self)

    def _check_tests(self) -> None:
        """Check that there are seeds enough for a test to find anything."""
        count = len(self.tested)
        if self.tests and not count:
            raise invalid("references", "is empty; name what `tests` are against")
        # Of n pairs the smallest two-sided p is 2^(1-n), and Holm multiplies it by the tests.
        needed = next(n for n in range(1, 100) if count * 2.0 ** (1 - n) <= SIGNIFICANCE)
        if count and self.seeds < needed:
            raise invalid(
                "seeds",
                f"{self.seeds} are too few: {count} Wilcoxon tests over them can reach no p below "
                f"{count * 2.0 ** (1 - self.seeds):.3g}; give {needed} or more, or fewer `tests`",
            )

    def goes_on_with(self, other: StudySpec) -> bool:
        """Whether all that `other` trains is trained under this study, too, and alike."""
        same_children = (self.training, self.budget) == (other.training, other.budget)
        grown = self.seeds >= other.seeds and set(names_of(other)) <= set(names_of(self))
        return same_children and grown and all(self.entry(e.name) == e for e in other.methods)

    def find(self, name: str) -> Entry | None:
        """Return the method of a name, or None."""
        return next((entry for entry in self.methods if entry.name == name), None)

    def entry(self, name: str) -> Entry:
        """Return the method of a name that is known to be there."""
        found = self.find(name)
        assert found is not None, name
        return found

    @property
    def tested(self) -> list[tuple[str, str]]:
        """Pairs of a method and a reference that are tested."""
        return [(name, other) for name in self.tests for other in self.references if name != other]


def names_of(spec: StudySpec) -> list[str]:
    """Return the names of a study's methods."""
    return [entry.name for entry in spec.methods]


def table_1(
    methods: Iterable[str], *, reward: Reward = Reward.GAP, ppo: PPOSettings | None = None
) -> tuple[Entry, ...]:
    """Return rows of the paper's Table 1 as methods of a study; raises InvalidArgument."""
    settings = PPOSettings() if ppo is None else ppo
    rows: list[Entry] = []
    for name in methods:
        method = training_method(name, field="methods")
        if method.is_reinforced:
            regularizer = method.regularizer.name
            learned = Learned(
                name=name,
                title=method.title,
                regularizer=regularizer,
                reward=reward,
                ppo=settings,
            )
            rows.append(learned)
        else:
            rows.append(Fixed(name=name, title=method.title, method=name))
    return tuple(rows)
