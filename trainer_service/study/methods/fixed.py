"""Values fixed in advance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from agent_service.domain.errors import invalid, within
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Plan
from trainer_service.training.regularizers.registry import training_method

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(Entry):
    """A method without a controller, as Vanilla, NI, D or DNI, with values fixed in advance."""

    kind: Literal["fixed"] = "fixed"
    method: str
    values: Mapping[str, float] = field(default_factory=dict)
    """As in `TrainingSpec`; empty uses its defaults."""

    def __post_init__(self) -> None:
        """Check that the method needs no controller."""
        Entry.__post_init__(self)
        if training_method(self.method).is_reinforced:
            raise invalid("method", f"{self.method} has a controller; use a kind that names one")

    @property
    def is_constant(self) -> bool:
        """Whether the loss trains no strength of it, as DNI's."""
        return not training_method(self.method).regularizer.is_trained

    def check(self, path: str, study: StudySpec) -> None:
        """Check the values, as the child does."""
        with within(path):
            self.run(study, seed=0)

    def run(self, study: StudySpec, seed: int) -> RunSpec:
        """Return the run of a seed."""
        training = replace(study.training, method=self.method, values=self.values, seed=seed)
        return RunSpec(training=training)

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run of a seed."""
        return self.run(plan.spec, seed)
