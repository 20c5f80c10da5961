"""The mean of what a learned policy sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainer_service.run import RunSpec
from trainer_service.study.methods.plan import Phase, Plan
from trainer_service.study.methods.replay import OfPolicy

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOf(OfPolicy):
    """A constant: the mean of all values that another entry's judged runs trained under."""

    kind: Literal["mean"] = "mean"
    of: str
    """The entry: a learned one."""

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the child under the mean, once all runs are there that it is of."""
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
        """Wait for the runs that it is of."""
        work.judged(self.of)
        return ""


def mean_values(judged: Sequence[Result]) -> Mapping[str, float]:
    """Return the mean of all values that judged runs of a method trained under, by hyperparameter.

    Each run counts alike, whatever its length; `judged` has at least one with a chunk, in order.
    """
    traces = [result.trace.values for result in judged if result.trace.training_loss]
    return {name: float(np.mean([np.mean(trace[name]) for trace in traces])) for name in traces[0]}
