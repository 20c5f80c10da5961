"""Stored policy versions applied to logged decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent_service.controllers.actions import action_values
from agent_service.controllers.observations import context_size
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
        mean = self.snapshot.mean(self._observation(transition))
        return action_values(self.spec, mean.tolist(), before=before)

    def _observation(self, transition: pb.Transition) -> np.ndarray:
        """Return the policy's observation: S_t, then the context, if the policy uses one."""
        context = transition.context if context_size(self.spec) else ()
        return np.array([*transition.state, *context])


def read_policy(log: AgentClient, controller: str, version: int) -> LoggedPolicy:
    """Return a stored policy version.

    Raises:
        NotFound: the controller or version does not exist.
        FailedPrecondition: the controller's algorithm has no policy.
    """
    data = log.export_policy(controller, version)
    spec = convert.spec_from_message(log.get_controller(controller).spec)
    return LoggedPolicy(spec, from_bytes(data, spec))
