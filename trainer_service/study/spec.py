"""What a study is: methods compared on the same fresh children, and the budget that each may spend.

Children have seeds: judged ones 0, 1, ..., the same for all methods, so that scores are paired;
those that are searched or learned on TUNING_SEEDS, ...: nobody is judged on one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import invalid
from agent_service.domain.rewards import Reward
from trainer_service.study.entries import (
    Entry,
    Fixed,
    Grid,
    Learned,
    MeanOf,
    Population,
    Replayed,
    Scheduled,
)
from trainer_service.training.regularizers.registry import training_method
from trainer_service.training.spec import TrainingSpec

TUNING_SEEDS = 1000
"""Seeds of children that are searched or learned on start here."""
MAX_METHODS = 200
"""More are no picture, and take hours to compare."""
SIGNIFICANCE = 0.05
"""Of the family of all tests together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A study; raises InvalidArgument naming the field that is wrong."""

    title: str = ""
    """Of its report; empty takes the data set's name."""
    seeds: int = 5
    """Fresh children that each method is judged on."""
    budget: int = 40
    """Children that each search, and each controller, may train before it is judged."""
    training: TrainingSpec
    """What all children have in common; method, values and seed are set for each."""
    methods: tuple[Entry, ...]
    """What is compared, in the order of tables and pictures."""
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
            _check_known(name, getattr(self, name), names)
        self._check_tests()
        for place, entry in enumerate(self.methods):
            self._check_entry(f"methods[{place}].", entry)

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

    def _check_entry(self, path: str, entry: Entry) -> None:
        if isinstance(entry, Grid) and self.budget % len(entry.values):
            raise invalid(
                f"{path}values",
                f"{len(entry.values)} values cannot share {self.budget} children equally; change "
                "them or the budget",
            )
        if isinstance(entry, Learned):
            self._check_transitions(path, entry)
        if isinstance(entry, Replayed | MeanOf):
            if not isinstance(self._find(entry.of), Learned):
                raise invalid(f"{path}of", f"{entry.of!r} is no learned method of this study")
            if isinstance(entry, Replayed) and self.seeds < 2:
                raise invalid("seeds", "a replay needs a run of another seed; give 2 or more")
        if isinstance(entry, Scheduled) and self.training.chunks is None:
            raise invalid("training.chunks", "is not set; a schedule's length is told in chunks")
        if isinstance(entry, Population):
            chunks = self.training.chunks
            if chunks is None or chunks % entry.round_chunks:
                raise invalid(
                    f"{path}round_chunks",
                    f"{entry.round_chunks} does not divide training.chunks, {chunks}",
                )
        if isinstance(entry, Fixed):
            # The child's own checks, of the values against the method.
            replace(self.training, method=entry.method, values=entry.values)

    def _check_transitions(self, path: str, entry: Learned) -> None:
        """Check that a controller learns at all, where the length is known before the data is."""
        chunks, needed = self.training.chunks, entry.ppo.rollout_size
        children = self.budget_of(entry)
        if children > TUNING_SEEDS:
            raise invalid(f"{path}budget", f"{children} must be at most {TUNING_SEEDS}")
        if chunks is not None and children * chunks < needed:
            raise invalid(
                f"{path}ppo",
                f"{children} children of {chunks} chunks bring {children * chunks} transitions, "
                f"fewer than one update takes, {needed}; give more children or chunks, or a "
                "smaller rollout_size: in [methods.ppo] below this method, or as --rollout-size",
            )

    def goes_on_with(self, other: StudySpec) -> bool:
        """Whether all that `other` trains is trained under this study, too, and alike."""
        same_children = (self.training, self.budget) == (other.training, other.budget)
        grown = self.seeds >= other.seeds and set(names_of(other)) <= set(names_of(self))
        return same_children and grown and all(self.entry(e.name) == e for e in other.methods)

    def _find(self, name: str) -> Entry | None:
        return next((entry for entry in self.methods if entry.name == name), None)

    def entry(self, name: str) -> Entry:
        """Return the method of a name that is known to be there."""
        found = self._find(name)
        assert found is not None, name
        return found

    def budget_of(self, entry: Entry) -> int:
        """Return how many children a method trains that are not judged."""
        if isinstance(entry, Population):
            return self.seeds * (entry.members - 1)
        if not entry.tunes:
            return 0
        own = entry.budget if isinstance(entry, Learned) else None
        return self.budget if own is None else own

    @property
    def tested(self) -> list[tuple[str, str]]:
        """What is tested: pairs of a method and a reference."""
        return [(name, other) for name in self.tests for other in self.references if name != other]


def names_of(spec: StudySpec) -> list[str]:
    """Return the names of a study's methods."""
    return [entry.name for entry in spec.methods]


def _check_known(field: str, given: Iterable[str], names: list[str]) -> None:
    for name in given:
        if name not in names:
            raise invalid(field, f"{name!r} is none of the methods: {', '.join(names)}")


def table_1(
    methods: Iterable[str], *, reward: Reward = Reward.GAP, ppo: PPOSettings | None = None
) -> tuple[Entry, ...]:
    """Return rows of the paper's Table 1 as methods of a study; raises InvalidArgument.

    Args:
        methods: names of any registered ones.
        reward: what controllers learn from.
        ppo: how.
    """
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
