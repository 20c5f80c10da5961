"""Schedules of learned policies, replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.errors import invalid
from agent_service.domain.runs import Mode
from trainer_service.run import RunSpec
from trainer_service.study.methods.choosing import Steered
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import Plan

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


class OfPolicy(Entry):
    """A method that is made of a learned one's judged runs."""

    __slots__ = ()
    of: str
    """The method: a learned one."""

    def check(self, path: str, study: StudySpec) -> None:
        """Check that there is such a method."""
        found = study.find(self.of)
        if found is None or found.learned is None:
            raise invalid(f"{path}of", f"{self.of!r} is no learned method of this study")

    @property
    def source(self) -> str:
        """The learned method."""
        return self.of

    def like(self, study: StudySpec) -> Steered:
        """Return the learned method."""
        found = study.entry(self.of).learned
        assert found is not None, self.of
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(OfPolicy):
    """The schedule of another entry's judged run on a child of another seed.

    Is it the policy, or just its schedule? Shuffled, the values of its chunks come in a random
    order: their distribution without order or reaction, as if the policy saw other times' states.
    """

    kind: Literal["replay"] = "replay"
    of: str
    """The entry: a learned one."""
    shuffled: bool = False
    needs_agent = True

    def check(self, path: str, study: StudySpec) -> None:
        """Check that there is a run of another seed to replay."""
        OfPolicy.check(self, path, study)
        if study.seeds < 2:
            raise invalid("seeds", "a replay needs a run of another seed; give 2 or more")

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the child under a controller of its own."""
        name = plan.controller(self.name, seed)
        return self.like(plan.spec).steered(plan.spec, name, Mode.FROZEN, seed)

    def tune(self, work: Work) -> str:
        """Have a controller for each child, which plays another seed's run."""
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
        """Return what the chunks of a seed run under: the values of the next seed's judged run.

        Args:
            judged: of the learned method: at least two runs, with at least one chunk each.
            seed: of the child; its own run is never the one that is replayed.
        """
        by_seed = {result.key.index: result.trace.values for result in judged}
        seeds = sorted(by_seed)
        source = by_seed[seeds[(seeds.index(seed) + 1) % len(seeds)]]
        chunks = [dict(zip(source, row, strict=True)) for row in zip(*source.values(), strict=True)]
        if self.shuffled:
            order = np.random.default_rng(seed).permutation(len(chunks))
            return [chunks[place] for place in order]
        return list(chunks)
