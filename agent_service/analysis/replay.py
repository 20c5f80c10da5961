"""Replay of a policy version: the actions that it would have decided on the log's states."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_service.analysis.agreement import Agreement, compare_values, values_run
from agent_service.analysis.tables import FieldType
from agent_service.controllers.derivation import action_values
from agent_service.controllers.observations import context_size, observation_of
from agent_service.domain.errors import FailedPrecondition
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.policy_file import from_bytes
from agent_service.learning.snapshot import PolicySnapshot
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.client import AgentClient


@dataclass(frozen=True, slots=True)
class LoggedPolicy:
    """A policy version that decides on logged states."""

    spec: ControllerSpec
    snapshot: PolicySnapshot

    def mean_values(
        self, transition: pb.Transition, *, before: Mapping[str, float] | None
    ) -> dict[str, float]:
        """Return the mean action, in the hyperparameters' own units.

        Args:
            transition: the logged decision.
            before: the values that the previous chunk ran under; None for a run's first.
        """
        context = transition.context if context_size(self.spec) else ()
        observation = observation_of(self.spec, np.array(transition.state), np.array(context))
        mean = self.snapshot.mean(observation)
        return action_values(self.spec, mean.tolist(), before=before)


def read_policy(log: AgentClient, controller: str, version: int) -> LoggedPolicy:
    """Return a stored policy version.

    Raises:
        NotFound: the controller or version does not exist.
        FailedPrecondition: the controller's algorithm has no policy.
    """
    data = log.export_policy(controller, version)
    spec = convert.spec_from_message(log.get_controller(controller).spec)
    return LoggedPolicy(spec, from_bytes(data, spec))


class Replay:
    """Compares a policy version's mean actions on logged states with other decisions.

    Read `records` to the end once; then `agreements` are complete.
    """

    def __init__(self, policy: LoggedPolicy, *, against: LoggedPolicy | None) -> None:
        """Compare with the mean actions of `against`, or (None) with the logged decisions."""
        self._policy = policy
        self._against = against
        self.other = "decided" if against is None else "against"
        """Name of the field with the other values."""
        self.fields: Mapping[str, FieldType] = {
            "position": FieldType.INTEGER,
            "run_id": FieldType.TEXT,
            "chunk_index": FieldType.INTEGER,
            "policy_version": FieldType.INTEGER,
            self.other: FieldType.NAMED,
            "replayed": FieldType.NAMED,
        }
        self._ran: dict[str, Mapping[str, float]] = {}
        self._courses = {h.name: (array("d"), array("d")) for h in policy.spec.hyperparameters}

    def records(self, transitions: Iterable[pb.Transition]) -> Iterator[dict[str, Any]]:
        """Yield a record for each decision, by `fields`, with values in the order of the spec."""
        for transition in transitions:
            before = self._ran.get(transition.run_id)
            replayed = self._policy.mean_values(transition, before=before)
            other = self._other_values(transition, before)
            self._ran[transition.run_id] = values_run(transition)
            for name, (ours, theirs) in self._courses.items():
                ours.append(replayed[name])
                theirs.append(other[name])
            yield {
                "position": transition.position,
                "run_id": transition.run_id,
                "chunk_index": transition.chunk_index,
                "policy_version": transition.action.policy_version,
                self.other: other,
                "replayed": replayed,
            }

    def _other_values(
        self, transition: pb.Transition, before: Mapping[str, float] | None
    ) -> dict[str, float]:
        if self._against is not None:
            return self._against.mean_values(transition, before=before)
        return {name: transition.action.values[name] for name in self._courses}

    def agreements(self) -> dict[str, Agreement]:
        """Return the agreement by hyperparameter.

        Raises:
            FailedPrecondition: no decision was read.
        """
        if not all(ours for ours, _ in self._courses.values()):
            name = self._policy.spec.name
            raise FailedPrecondition(f"the log has no transition of {name!r} to replay")
        return {
            h.name: compare_values(h, *self._courses[h.name])
            for h in self._policy.spec.hyperparameters
        }
