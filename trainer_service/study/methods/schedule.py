"""Hand-made schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent_service.controllers.schedule import ScheduleSettings, Shape
from agent_service.domain.errors import invalid
from agent_service.domain.specs import Settings
from trainer_service.study.methods.choosing import Choosing, Steered

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


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
