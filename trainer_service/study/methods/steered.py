"""Methods under a controller; here those that do not learn: schedules and random values."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.random import RandomSettings
from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, Settings
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.choosing import Choosing
from trainer_service.study.methods.plan import Plan
from trainer_service.training.spec import TrainingSpec, hyperparameters

if TYPE_CHECKING:
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(Steered):
    """A hand-made schedule (Figure 2, Diagram 2)."""

    kind: Literal["schedule"] = "schedule"
    course: Shape
    start: float
    """Value of chunk 1."""
    end: float
    """Value from `until` on."""
    until: float = 1.0
    """Share of the training after which `end` is reached, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check both values against the range."""
        Choosing.__post_init__(self)
        self.check_range("start", self.start)
        self.check_range("end", self.end)
        if not 0 < self.until <= 1:
            raise invalid("until", f"{self.until} is not in (0, 1]")

    def check(self, path: str, study: StudySpec) -> None:
        """Check that the training's length is known in chunks."""
        if study.training.chunks is None:
            raise invalid("training.chunks", "is not set; a schedule's length is told in chunks")

    def algorithm(self, study: StudySpec) -> Settings:
        """Return the schedule in chunks."""
        assert study.training.chunks is not None
        chunks = round(study.training.chunks * self.until)
        name = self.strength.name
        return ScheduleSettings(
            shape=self.course,
            start={name: self.start},
            end={name: self.end},
            # A step comes after its share of the chunks; other shapes end with the last of them.
            chunks=max(2, chunks + (self.course is Shape.STEP)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Steered):
    """A fresh uniform draw for each chunk: the `random` controller."""

    kind: Literal["random"] = "random"
    high: float | None = None
    """Upper bound; None for that of the range."""

    def __post_init__(self) -> None:
        """Check the upper bound against the range."""
        Choosing.__post_init__(self)
        self.check_high(self.high)

    def decided(self, study: StudySpec) -> tuple[Hyperparameter, ...]:
        """Return the hyperparameters, with the upper bound applied."""
        return self.below(self.high, Steered.decided(self, study))

    def algorithm(self, study: StudySpec) -> Settings:
        """Return uniform draws."""
        return RandomSettings()
