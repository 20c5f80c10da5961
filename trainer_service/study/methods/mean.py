"""The mean of a learned policy's values, as a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.plan import Phase, Plan
from trainer_service.study.methods.replay import OfPolicy

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work


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
