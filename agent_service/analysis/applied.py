"""The values that a run's chunks actually ran under, compared with the decided ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_service.analysis.agreement import Agreement, compare_values
from agent_service.analysis.tables import FieldType, Table
from agent_service.domain.errors import FailedPrecondition
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.client import AgentClient

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
