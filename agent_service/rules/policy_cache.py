"""Cache of loaded policies."""

from __future__ import annotations

from dataclasses import dataclass

from agent_service.domain.caches import SizedCache
from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Controller
from agent_service.domain.store import AnyPolicy
from agent_service.learning import policies
from agent_service.store.rows.session import Session

KEPT = 256
"""Maximum number of cached policy versions; others are loaded again when needed."""
KEPT_BYTES = 64 * 2**20
"""Of their files; in memory a version takes 1.6 times as much."""


@dataclass(slots=True)
class _CachedPolicy:
    policy: AnyPolicy
    data: bytes | None
    """The file that it was loaded from, until that is known to be durable."""


class PolicyCache:
    """Policy versions by controller and number, which never change once they are durable.

    Only for use inside the store's atomic steps, one at a time.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: SizedCache[tuple[int, int], _CachedPolicy] = SizedCache(
            entries=KEPT, size=KEPT_BYTES
        )

    def get(self, session: Session, controller: Controller, version: int) -> AnyPolicy | None:
        """Return a stored policy version; None for version 0, of algorithms without policies."""
        if version == 0:
            return None
        key = (controller.id, version)
        entry = self._kept.get(key)
        if entry is None or entry.data is not None:
            entry, size = self._read(session, controller, version, entry)
            self._kept.put(key, entry, size)
        return entry.policy

    def _read(
        self, session: Session, controller: Controller, version: int, seen: _CachedPolicy | None
    ) -> tuple[_CachedPolicy, int]:
        """Load a version, and return it with the size of its file in bytes.

        The current transaction may have created it and may be rolled back, and another version may
        then get its number. So until it is durable, an entry is reused only if the data is equal.
        """
        stored = session.find_policy(controller, version)
        if stored is None:
            raise Unavailable(
                f"the store is damaged: controller {controller.spec.name} has no policy version "
                f"{version}; stop the service and restore a copy of the store"
            )
        entry = seen
        if entry is None or entry.data != stored.data:
            entry = _CachedPolicy(policies.load(stored.data, controller.spec), stored.data)

        def mark_durable() -> None:
            entry.data = None

        session.after_commit(mark_durable)
        return entry, len(stored.data)
