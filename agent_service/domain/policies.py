"""Policies that were read from the store, kept ready to decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent_service.domain.errors import Unavailable
from agent_service.domain.ports import AnyPolicy, Policies, PolicyVersion
from agent_service.domain.runs import Controller

KEPT = 256
"""Policy versions in memory at the most; others are read again when they are needed."""


@dataclass(slots=True)
class _Entry:
    policy: AnyPolicy
    data: bytes | None
    """What it was read from, until that is known to be durable."""


class PolicyReads(Protocol):
    """What a policy is read by: a session, as a rule."""

    def find_policy(self, controller: Controller, version: int) -> PolicyVersion | None:
        """See the store port's `Session`."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """See the store port's `Session`."""
        ...


class PolicyCache:
    """Policy versions by controller and number; once durable they never change.

    Used inside the store's atomic steps only, one at a time.
    """

    def __init__(self, policies: Policies) -> None:
        """Start empty."""
        self.forms = policies
        """How they are read and written."""
        self._kept: dict[tuple[int, int], _Entry] = {}

    def get(self, session: PolicyReads, controller: Controller, version: int) -> AnyPolicy | None:
        """Return a stored policy version; None for version 0, that of algorithms without one."""
        if version == 0:
            return None
        key = (controller.id, version)
        # The key moves to the end, so that the first is the one unused for longest.
        entry = self._kept.pop(key, None)
        if entry is None or entry.data is not None:
            entry = self._read(session, controller, version, entry)
        self._kept[key] = entry
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return entry.policy

    def _read(
        self, session: PolicyReads, controller: Controller, version: int, seen: _Entry | None
    ) -> _Entry:
        """Read a version, which this very transaction may have made, and may take back.

        Another one can come to have its number then, so it is not taken as seen before its
        transaction is durable, save where the data is the same.
        """
        stored = session.find_policy(controller, version)
        if stored is None:
            raise Unavailable(
                f"the store is damaged: controller {controller.spec.name} has no policy version "
                f"{version}; stop the service and restore a copy of the store"
            )
        entry = seen
        if entry is None or entry.data != stored.data:
            entry = _Entry(self.forms.load(stored.data, controller.spec), stored.data)

        def settle() -> None:
            entry.data = None

        session.after_commit(settle)
        return entry
