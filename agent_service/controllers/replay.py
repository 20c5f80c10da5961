"""The replay controller: what a stored run's chunks ran under, again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from agent_service.domain.checks import fields_by_name, several
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter, check_values
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec, Settings, Stored

if TYPE_CHECKING:
    from agent_service.domain.store import Situation

MAX_REPLAYED = 10_000
"""Chunks whose values may be given at the most."""
MAX_REPLAYED_VALUES = 100_000
"""Chunks by hyperparameters of a replay; as JSON some 2 MB."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings(Settings):
    """A finished run's values again, or given ones, chunk by chunk; after their end, the last."""

    kind: Literal["replay"] = "replay"
    run_id: str = ""
    """The run, of any controller with the same hyperparameters; empty where values are given."""
    values: tuple[Mapping[str, float], ...] = ()
    """Each chunk's values by name; a run's are filled in when the controller is created."""

    def __post_init__(self) -> None:
        """Check the kind of the values; raises InvalidArgument naming them."""
        values = several(self.values, Mapping, "values", "{'dropout': 0.1}, ...")
        object.__setattr__(self, "values", values)

    def check(self, hyperparameters: Sequence[Hyperparameter]) -> None:
        """Check how many chunks there are, and each value; raises InvalidArgument naming it."""
        if not self.run_id and not 1 <= len(self.values) <= MAX_REPLAYED:
            raise invalid(
                "values", f"{len(self.values)} given; name a run_id, or give 1 to {MAX_REPLAYED}"
            )
        for place, values in enumerate(self.values):
            field = "run_id" if self.run_id else f"values[{place}]"
            check_values(hyperparameters, values, field=field)

    def check_size(self, spec: ControllerSpec) -> None:
        """Check how many values there are in all; raises InvalidArgument."""
        chunks, each = len(self.values), len(spec.hyperparameters)
        if chunks * each > MAX_REPLAYED_VALUES:
            raise invalid(
                "values",
                f"{chunks} chunks of {each} hyperparameters are {chunks * each:,} values; at most "
                f"{MAX_REPLAYED_VALUES:,}: replay fewer chunks, or fewer hyperparameters",
            )

    def completed(self, there: Settings | None, stored: Stored) -> ReplaySettings:
        """Fill in what the run's chunks ran under, which decisions then need nothing else for.

        Neither does the same spec again: the run may have been pruned since.
        """
        if not self.run_id:
            return self
        if self.values:
            raise invalid("values", "are given beside run_id; leave one of the two out")
        if isinstance(there, ReplaySettings) and there.run_id == self.run_id:
            return there
        return replace(self, values=stored.values_of(self.run_id))

    def as_asked(self) -> ReplaySettings:
        """Return a stored run's replay without values, which are found again by its id."""
        return replace(self, values=()) if self.run_id else self

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the action of the situation's chunk; past the run's end, of its last."""
        values = self.values[min(situation.chunk, len(self.values)) - 1]
        sample = tuple(h.unit(values[h.name]) for h in spec.hyperparameters)
        return Choice(sample, log_probability=0.0, explored=False)
