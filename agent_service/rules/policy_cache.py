"""Policies that were read from the store, kept ready to decide."""

from __future__ import annotations

from dataclasses import dataclass

from agent_service.domain.caches import SizedCache
from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Controller
from agent_service.domain.store import AnyPolicy, Session
from agent_service.learning import policies

KEPT = 256
"""Policy versions in memory at the most; others are read again when they are needed."""
KEPT_BYTES = 64 * 2**20
"""Of their files; in memory a version takes 1.6 times as much."""


@dataclass(slots=True)
class _Entry:
    policy: AnyPolicy
    data: bytes | None
    """What it was read from, until that is known to be durable."""


class PolicyCache:
    """Policy versions by controller and number; once durable they never change.

    Used inside the store's atomic steps only, one at a time.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: SizedCache[tuple[int, int], _Entry] = SizedCache(entries=KEPT, size=KEPT_BYTES)

    def get(self, session: Session, controller: Controller, version: int) -> AnyPolicy | None:
        """Return a stored policy version; None for version 0, that of algorithms without one."""
        if version == 0:
            return None
        key = (controller.id, version)
        entry = self._kept.get(key)
        if entry is None or entry.data is not None:
            entry, size = self._read(session, controller, version, entry)
            self._kept.put(key, entry, size)
        return entry.policy

    def _read(
        self, session: Session, controller: Controller, version: int, seen: _Entry | None
    ) -> tuple[_Entry, int]:
        """Return a version as it is stored, and the bytes of its file.

        This very transaction may have made it, and may take it back; another one can come to have
        its number then. So it is not taken as seen before its transaction is durable, save where
        the data is the same.
        """
        stored = session.find_policy(controller, version)
        if stored is None:
            raise Unavailable(
                f"the store is damaged: controller {controller.spec.name} has no policy version "
                f"{version}; stop the service and restore a copy of the store"
            )
        entry = seen
        if entry is None or entry.data != stored.data:
            entry = _Entry(policies.load(stored.data, controller.spec), stored.data)

        def settle() -> None:
            entry.data = None

        session.after_commit(settle)
        return entry, len(stored.data)
