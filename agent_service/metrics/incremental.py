"""What grows with the store and is shown on every page, so that no scrape reads all of it again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_service.domain.runs import Controller
from agent_service.domain.store import Origin, Session

_REST = 100
"""Times as long as counting rows took until they are counted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """The updates of a controller's policy, up to one version."""

    version: int = 0
    count: int = 0
    timed: int = 0
    """Those that took time: a controller that learns from final scores takes none."""
    seconds: float = 0.0
    """Of all those."""
    last: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the last of them."""


class IncrementalCounts:
    """Of the controllers of one store, by name. What is told is never older than `_REST` says."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._updates: dict[str, Updates] = {}
        self._recorded: dict[str, tuple[int, float]] = {}
        """With the time at which to count again."""

    def updates(self, session: Session, controller: Controller) -> Updates:
        """Return a controller's; only versions that are new are read, as none ever changes."""
        known = self._updates.get(controller.spec.name, Updates())
        new = controller.policy_version - known.version
        if new <= 0:  # below, where a scrape beside this one began later
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
        """Return a controller's transitions that are kept only.

        Each is a row to be counted, and counting takes at most a hundredth of the time: a count
        that took a second serves for 100 of them.
        """
        began = time.monotonic()
        count, due = self._recorded.get(controller.spec.name, (0, began))
        if began >= due:
            count = session.count_recorded(controller)
            ended = time.monotonic()
            self._recorded[controller.spec.name] = (count, ended + _REST * (ended - began))
        return count

    def keep(self, names: set[str]) -> None:
        """Forget all controllers but these."""
        for tally in (self._updates, self._recorded):
            for name in tally.keys() - names:
                tally.pop(name, None)
