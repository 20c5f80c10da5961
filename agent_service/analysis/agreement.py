"""Agreement of decisions with another policy's, and with the values that chunks ran under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent_service.analysis.tables import FieldType, Table
from agent_service.domain.errors import FailedPrecondition
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.client import AgentClient

CLOSE = 0.05
"""Share of a hyperparameter's range within which two values count as close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement between two series of one hyperparameter's values."""

    decisions: int
    mean_difference: float
    """Mean absolute difference, in the hyperparameter's own unit."""
    correlation: float | None
    """Pearson correlation in [-1, 1]; None if either series is constant."""
    close: float
    """Share of decisions that differ by at most `CLOSE` of the (logarithmic) range."""


def compare_values(
    hyperparameter: Hyperparameter, ours: Sequence[float], theirs: Sequence[float]
) -> Agreement:
    """Return the agreement between two series of equal length, at least 1.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if not 0 < len(ours) == len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values; give equally many, at least 1")
    first, second = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    units = np.array([[hyperparameter.unit(v) for v in values] for values in (ours, theirs)])
    # The policy's range has width 2; the factor admits exactly CLOSE despite rounding.
    is_close = np.abs(units[0] - units[1]) <= 2.0 * CLOSE * (1.0 + 1e-9)
    is_constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return Agreement(
        decisions=len(first),
        mean_difference=float(np.abs(first - second).mean()),
        correlation=None if is_constant else float(np.corrcoef(first, second)[0, 1]),
        close=float(is_close.mean()),
    )


_FIELDS = {"chunk_index": FieldType.INTEGER, "applied": FieldType.NAMED, "decided": FieldType.NAMED}


@dataclass(frozen=True, slots=True)
class Applied:
    """A run's chunks in order, at least one."""

    hyperparameters: Sequence[Hyperparameter]
    transitions: Sequence[pb.Transition]

    def table(self) -> Table:
        """Return a table with a record per chunk, values in the order of the spec."""
        names = [h.name for h in self.hyperparameters]
        return Table(
            fields=_FIELDS,
            records=[
                {
                    "chunk_index": transition.chunk_index,
                    "applied": {name: values_run(transition)[name] for name in names},
                    "decided": {name: transition.action.values[name] for name in names},
                }
                for transition in self.transitions
            ],
        )

    def agreements(self) -> dict[str, Agreement]:
        """Return the agreement by hyperparameter."""
        return {
            h.name: compare_values(
                h,
                [values_run(transition)[h.name] for transition in self.transitions],
                [transition.action.values[h.name] for transition in self.transitions],
            )
            for h in self.hyperparameters
        }


def read_applied(log: AgentClient, run_id: str) -> Applied:
    """Read a run from the log.

    Raises:
        NotFound: the run does not exist.
        FailedPrecondition: it has reported nothing yet.
    """
    run = log.get_run(run_id)
    controller = log.get_controller(run.controller)
    transitions = list(log.transitions(run_id=run_id))
    if run.mode == pb.MODE_SHADOW:
        # A chunk that diverged was not reported, so its applied values are unknown.
        transitions = [t for t in transitions if t.HasField("applied")]
    if not transitions:
        raise FailedPrecondition(f"run {run_id!r} has reported no chunk yet")
    spec = convert.spec_from_message(controller.spec)
    return Applied(spec.hyperparameters, transitions)


def values_run(transition: pb.Transition) -> dict[str, float]:
    """Return the values that a transition's chunk actually ran under."""
    is_other = transition.HasField("applied")
    return dict(transition.applied.values if is_other else transition.action.values)
