"""Base classes of methods that set the values of one regularizer, and of controllers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, Settings
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import TUNING_SEEDS, Phase, Plan
from trainer_service.training.regularizers.registry import steerable
from trainer_service.training.regularizers.regularizer import Regularizer
from trainer_service.training.spec import TrainingSpec, hyperparameters

if TYPE_CHECKING:
    from trainer_service.study.methods.carried import Carried
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing(Entry):
    """A method that sets the values of one regularizer."""

    regularizer: str = "dropout"

    def __post_init__(self) -> None:
        """Check that the regularizer has values to set."""
        Entry.__post_init__(self)
        steerable(self.regularizer)

    @property
    def chosen(self) -> Regularizer:
        """The regularizer."""
        return steerable(self.regularizer)

    @property
    def strength(self) -> Hyperparameter:
        """Name and range of the value that drives all of its sites."""
        return self.chosen.strength

    def check_range(self, field: str, *values: float) -> None:
        """Check values against the range; raises InvalidArgument."""
        low, high = self.strength.low, self.strength.high
        for value in values:
            if not low <= value <= high:
                raise invalid(field, f"{value} is not in [{low}, {high}]")

    def check_high(self, high: float | None) -> None:
        """Check an optional upper bound against the range; raises InvalidArgument."""
        low, highest = self.strength.low, self.strength.high
        if high is not None and not low < high <= highest:
            raise invalid("high", f"{high} is not in ({low}, {highest}]")

    def below(
        self, high: float | None, decided: tuple[Hyperparameter, ...]
    ) -> tuple[Hyperparameter, ...]:
        """Return hyperparameters with an optional upper bound applied."""
        return decided if high is None else tuple(replace(one, high=high) for one in decided)

    def fixed(self, name: str, values: dict[str, float]) -> Fixed:
        """Return a method with fixed values of the regularizer."""
        return Fixed(name=name, method=self.chosen.fixed.lower(), values=values)


class Steered(Choosing):
    """A method under a controller; by default one that does not learn."""

    __slots__ = ()
    needs_agent = True

    @abstractmethod
    def algorithm(self, study: StudySpec) -> Settings:
        """Return the settings of the controller's algorithm."""

    def training(self, study: StudySpec) -> TrainingSpec:
        """Return the training spec of its children; the seed is set for each."""
        return replace(study.training, method=self.chosen.steered.lower(), values={})

    def decided(self, study: StudySpec) -> tuple[Hyperparameter, ...]:
        """Return the hyperparameters of the controller."""
        return hyperparameters(self.training(study))

    def controller(self, plan: Plan) -> ControllerSpec:
        """Return the spec of its controller."""
        return ControllerSpec(
            name=plan.controller(self.name),
            chunk_size=plan.spec.training.chunk_size,
            hyperparameters=self.decided(plan.spec),
            reward=self.reward,
            seed=plan.spec.training.data_seed,
            algorithm=self.algorithm(plan.spec),
        )

    def steered(self, study: StudySpec, controller: str, mode: Mode, seed: int) -> RunSpec:
        """Return a run under the named controller."""
        training = replace(self.training(study), seed=seed)
        return RunSpec(training=training, controller=controller, mode=mode)

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run under the frozen controller."""
        return self.steered(plan.spec, plan.controller(self.name), Mode.FROZEN, seed)

    def tune(self, work: Work) -> str:
        """Create the controller."""
        work.controllers.decide_only(self.controller(work.plan))
        return ""


class Learning(Steered):
    """A method whose controller learns from the budget's children, then is frozen."""

    __slots__ = ()

    def tuned_children(self, study: StudySpec) -> int:
        """Return the study's budget."""
        return study.budget

    def tuning(self, plan: Plan) -> list[RunSpec]:
        """Return the runs that it learns from."""
        name = plan.controller(self.name)
        return [
            self.steered(plan.spec, name, Mode.LEARNING, TUNING_SEEDS + place)
            for place in range(self.tuned_children(plan.spec))
        ]

    @property
    def transitions(self) -> int:
        """Transitions of one policy update; 0 if it does not learn from transitions."""
        return 0

    def tune(self, work: Work) -> str:
        """Learn the policy unless the folder has it, and freeze it at the agent service."""
        plan = work.plan
        made = self.controller(plan)
        if plan.policy(self.name) is None:
            is_new = not plan.finished(self.name, Phase.TUNING)
            work.controllers.learn(self.name, made, is_new=is_new)
            work.children.train(plan.tuning(self.name))
            work.controllers.freeze(self.name, made, rollout_size=self.transitions)
        return work.controllers.frozen(self.name, made)

    def carried(self, taker: Carried, there: Plan, study: StudySpec) -> Entry:
        """Return this method under the name of its taker; the policy comes with it."""
        if there.policy(self.name) is None:
            raise invalid("of", f"{self.name!r} has no frozen policy in {taker.study}, yet")
        if there.spec.training.chunk_size != study.training.chunk_size:
            raise invalid(
                "of",
                f"{self.name!r} decides from {there.spec.training.chunk_size} losses a chunk, "
                f"children here have {study.training.chunk_size}; set the same chunk_size",
            )
        return replace(self, name=taker.name)
