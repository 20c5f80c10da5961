"""Policies that were read from the store, kept ready to decide."""

from __future__ import annotations

from agent_service.domain.errors import Unavailable
from agent_service.domain.ports import Policies, Policy, Session
from agent_service.domain.runs import Controller

KEPT = 256
"""Policy versions in memory at the most; others are read again when they are needed."""


class PolicyCache:
    """Policy versions by controller and number; they never change, so none is ever stale.

    Used inside the store's atomic steps only, one at a time.
    """

    def __init__(self, policies: Policies) -> None:
        """Start empty."""
        self._policies = policies
        self._kept: dict[tuple[int, int], Policy] = {}

    def get(self, session: Session, controller: Controller, version: int) -> Policy | None:
        """Return a stored policy version; None for version 0, that of algorithms without one."""
        if version == 0:
            return None
        key = (controller.id, version)
        policy = self._kept.get(key) or self._read(session, controller, version)
        # The key moves to the end, so that the first is the one unused for longest.
        self._kept.pop(key, None)
        self._kept[key] = policy
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return policy

    def _read(self, session: Session, controller: Controller, version: int) -> Policy:
        stored = session.find_policy(controller, version)
        if stored is None:
            raise Unavailable(
                f"the store is damaged: controller {controller.spec.name} has no policy version "
                f"{version}; stop the service and restore a copy of the store"
            )
        return self._policies.load(stored.data, controller.spec)
