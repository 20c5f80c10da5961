"""Counts that grow with the store, updated incrementally so that no scrape reads everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_service.domain.runs import Controller
from agent_service.domain.store import Origin
from agent_service.store.rows.session import Session

_REST = 100
"""Factor: rows are counted again after this many times the duration of the last count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """The updates of a controller's policy up to one version."""

    version: int = 0
    count: int = 0
    timed: int = 0
    """Updates with a duration; learning from final scores has none."""
    seconds: float = 0.0
    """Their total duration."""
    last: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the last one."""


class IncrementalCounts:
    """Counts of a store's controllers, by name; no older than `_REST` allows."""

    def __init__(self) -> None:
        """Start empty."""
        self._updates: dict[str, Updates] = {}
        self._recorded: dict[str, tuple[int, float]] = {}
        """Each count, and when to count again."""

    def updates(self, session: Session, controller: Controller) -> Updates:
        """Return a controller's updates; reads only new versions, since versions never change."""
        known = self._updates.get(controller.spec.name, Updates())
        new = controller.policy_version - known.version
        if new <= 0:  # negative if a concurrent scrape began later
            return known
        versions = session.list_policies(controller, before=None, limit=new)
        learned = [v.statistics for v in versions if v.origin is Origin.LEARNED]
        timed = [statistics for statistics in learned if "seconds" in statistics]
        updates = Updates(
            version=controller.policy_version,
            count=known.count + len(learned),
            timed=known.timed + len(timed),
            seconds=known.seconds + sum(statistics["seconds"] for statistics in timed),
            last=timed[0] if timed else known.last,
        )
        self._updates[controller.spec.name] = updates
        return updates

    def recorded(self, session: Session, controller: Controller) -> int:
        """Return the number of a controller's transitions that are only recorded.

        Each is a row to count. Counting takes at most a hundredth of the time: a count that took a
        second is reused for 100 seconds.
        """
        began = time.monotonic()
        count, due = self._recorded.get(controller.spec.name, (0, began))
        if began >= due:
            count = session.count_recorded(controller)
            ended = time.monotonic()
            self._recorded[controller.spec.name] = (count, ended + _REST * (ended - began))
        return count

    def keep(self, names: set[str]) -> None:
        """Drop all controllers except these."""
        for tally in (self._updates, self._recorded):
            for name in tally.keys() - names:
                tally.pop(name, None)
