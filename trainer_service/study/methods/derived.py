"""Methods that derive from a learned policy: replays of its schedules, and its mean values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.errors import invalid
from agent_service.domain.runs import Mode
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Phase, Plan
from trainer_service.study.methods.steered import Steered

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


class OfPolicy(Entry):
    """A method that derives from a learned method's judged runs."""

    __slots__ = ()
    of: str
    """Name of the learned method."""

    def check(self, path: str, study: StudySpec) -> None:
        """Check that the study has such a method."""
        found = study.find(self.of)
        if found is None or found.learned is None:
            raise invalid(f"{path}of", f"{self.of!r} is no learned method of this study")

    @property
    def source(self) -> str:
        """The learned method's name."""
        return self.of

    def like(self, study: StudySpec) -> Steered:
        """Return the learned method."""
        found = study.entry(self.of).learned
        assert found is not None, self.of
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(OfPolicy):
    """The schedule of a learned method's judged run, on a child of another seed.

    Is it the policy, or just its schedule? Shuffled, the values of its chunks come in a random
    order: their distribution without order or reaction, as if the policy saw other times' states.
    """

    kind: Literal["replay"] = "replay"
    of: str
    """Name of the learned method."""
    shuffled: bool = False
    needs_agent = True

    def check(self, path: str, study: StudySpec) -> None:
        """Check that there is a second seed to replay."""
        OfPolicy.check(self, path, study)
        if study.seeds < 2:
            raise invalid("seeds", "a replay needs a run of another seed; give 2 or more")

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run under the seed's own controller."""
        name = plan.controller(self.name, seed)
        return self.like(plan.spec).steered(plan.spec, name, Mode.FROZEN, seed)

    def tune(self, work: Work) -> str:
        """Create a controller for each seed that replays another seed's run."""
        judged, plan = work.judged(self.of), work.plan
        like = self.like(plan.spec).controller(plan)
        for seed in work.seeds:
            values = tuple(self.values(judged, seed=seed))
            made = replace(
                like,
                name=plan.controller(self.name, seed),
                algorithm=ReplaySettings(values=values),
            )
            work.controllers.decide_only(made)
        return ""

    def values(self, judged: Sequence[Result], *, seed: int) -> list[Mapping[str, float]]:
        """Return the values of a seed's chunks: those of the next seed's judged run.

        Args:
            judged: results of the learned method: at least two, with at least one chunk each.
            seed: of the child; its own run is never replayed.
        """
        by_seed = {result.key.index: result.trace.values for result in judged}
        seeds = sorted(by_seed)
        source = by_seed[seeds[(seeds.index(seed) + 1) % len(seeds)]]
        chunks = [dict(zip(source, row, strict=True)) for row in zip(*source.values(), strict=True)]
        if self.shuffled:
            order = np.random.default_rng(seed).permutation(len(chunks))
            return [chunks[place] for place in order]
        return list(chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOf(OfPolicy):
    """A constant: the mean of all values of a learned method's judged runs."""

    kind: Literal["mean"] = "mean"
    of: str
    """Name of the learned method."""

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run with the mean, once all judged runs are finished."""
        source = plan.finished(self.of, Phase.JUDGED)
        if len(source) < plan.spec.seeds:
            return None
        like = self.like(plan.spec)
        training = replace(
            like.training(plan.spec),
            method=like.chosen.fixed.lower(),
            values=mean_values(source),
            seed=seed,
        )
        return RunSpec(training=training)

    def tune(self, work: Work) -> str:
        """Wait for the judged runs."""
        work.judged(self.of)
        return ""


def mean_values(judged: Sequence[Result]) -> Mapping[str, float]:
    """Return the mean value of judged runs, by hyperparameter.

    All runs have equal weight, whatever their length; at least one has a chunk.
    """
    traces = [result.trace.values for result in judged if result.trace.training_loss]
    return {name: float(np.mean([np.mean(trace[name]) for trace in traces])) for name in traces[0]}
