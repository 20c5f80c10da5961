"""Live progress of a suite: which problem of how many, and the time left of all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from agent_service.domain.errors import AgentError
from trainer_service.study.run.part import Part
from trainer_service.study.run.progress import StudyProgress, Whole
from trainer_service.study.suite import SuiteProblem
from trainer_service.training.spec import TrainingSpec


class SuiteProgress:
    """Says which problem trains; its bars are those of a study, below one of all problems."""

    def __init__(
        self,
        console: Console,
        chosen: Sequence[tuple[SuiteProblem, Part]],
        finished: Mapping[str, int],
    ) -> None:
        """Show the chosen problems, of which so many runs each were finished before."""
        self._console = console
        self._names = [problem.name for problem, _ in chosen]
        self._planned = {problem.name: part.planned_runs(problem.study) for problem, part in chosen}
        trainings = {problem.name: problem.study.training for problem, _ in chosen}
        self._images = _images_of_runs(trainings)
        self._runs: dict[str, float] = dict(finished)
        self._now = ""
        self._begun_at = time.monotonic()
        self._begun_with = self._trained

    def begins(self, name: str) -> None:
        """A problem's study begins, or goes on."""
        self._now = name
        self._console.print(self._words(), highlight=False, soft_wrap=True)

    def failed(self, name: str, error: AgentError) -> None:
        """A problem's study failed; it is not waited for any more."""
        self._runs[name] = self._total(name)
        self._console.print(f"{name} failed: {error}", highlight=False, soft_wrap=True)

    def study(self, name: str) -> StudyProgress:
        """Return what shows a problem's study, with a bar of all problems on top."""
        return StudyProgress(self._console, self._planned[name], whole=self._advanced)

    def _advanced(self, runs: float) -> Whole:
        """Note that so many runs of the present problem are trained."""
        self._runs[self._now] = max(self._runs[self._now], runs)
        planned = sum(map(self._total, self._names))
        return Whole(sum(self._runs.values()), planned, self._words())

    def _words(self) -> str:
        place = self._names.index(self._now) + 1
        words = f"problem {place} of {len(self._names)}: {self._now}"
        return ", ".join(filter(None, (words, self._left())))

    def _left(self) -> str:
        """Return the time left in words; empty until something was trained."""
        trained = self._trained - self._begun_with
        if trained <= 0:
            return ""
        planned = sum(self._total(name) * self._images[name] for name in self._names)
        seconds = time.monotonic() - self._begun_at
        return f"about {in_words((planned - self._trained) * seconds / trained)} left"

    @property
    def _trained(self) -> float:
        """Images trained, if a run trains as many as its spec says."""
        return sum(runs * self._images[name] for name, runs in self._runs.items())

    def _total(self, name: str) -> int:
        return sum(count for _label, count in self._planned[name].values())


def _images_of_runs(trainings: Mapping[str, TrainingSpec]) -> dict[str, float]:
    """Return how many images a run of each problem trains; all alike where it is not known."""
    found: dict[str, float] = {}
    for name, training in trainings.items():
        if training.chunks is not None:
            found[name] = training.chunks * training.chunk_size * training.batch_size
        elif training.epochs is not None and training.training_size is not None:
            found[name] = training.epochs * training.training_size
    return found if len(found) == len(trainings) else dict.fromkeys(trainings, 1.0)


def in_words(seconds: float) -> str:
    """Return a time of 0 or more as people say it: `2 h 5 min`, `5 min`, `1 min`."""
    minutes = max(1, round(seconds / 60))
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{rest} min" if rest else "")))
