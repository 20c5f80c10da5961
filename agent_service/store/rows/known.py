"""What the writer need not read again: runs as they stand, their newest decisions, controllers.

Nothing here is trusted on its own word. A run is changed only where the database still holds what
is known of it (`Overtaken` otherwise), and controllers are forgotten when another process commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent_service.domain.caches import SizedCache
from agent_service.domain.runs import Controller, Decision, Run

RUNS_KEPT = 16_384
"""Runs in memory at the most; others are read again when they report."""
RUNS_BYTES = 64 * 2**20
"""Of those together: some 2 kB each, their labels, and the losses of their last chunk."""


class Overtaken(Exception):
    """Another process changed the run meanwhile: forget what is known, and do the step again."""


@dataclass(slots=True)
class _Entry:
    run: Run
    newest: Decision | None
    """The decision that the run's child trains under, where it is known."""

    @property
    def size(self) -> int:
        """Bytes, about."""
        labels = sum(len(key) + len(text) for key, text in self.run.labels.items())
        return 2048 + labels + (0 if self.newest is None else self.newest.state.nbytes)


class Known:
    """Runs by id, with their newest decision, and controllers by key. One thread uses it."""

    def __init__(self, *, keeps_runs: bool = True) -> None:
        """Know nothing.

        Args:
            keeps_runs: whether runs are kept when another process has committed.
        """
        self._keeps_runs = keeps_runs
        self._runs: SizedCache[str, _Entry] = SizedCache(entries=RUNS_KEPT, size=RUNS_BYTES)
        self._controllers: dict[int, Controller] = {}
        self._data_version: int | None = None
        self.next_position: int | None = None
        """The place in the log of the next decision, where it is known."""
        self.most_active: int | None = None
        """At least as many as runs are active, where that is known."""

    def see(self, data_version: int) -> None:
        """Take the database's count of other processes' commits, at a transaction's begin."""
        if data_version != self._data_version:
            self._controllers.clear()
            if not self._keeps_runs:
                self._runs.clear()
            self.next_position = None
            self.most_active = None
            self._data_version = data_version

    def forget(self) -> None:
        """Know nothing again, since a transaction was rolled back or overtaken."""
        self._runs.clear()
        self._controllers.clear()
        self.next_position = None
        self.most_active = None

    def forget_some(self, run_ids: Iterable[str]) -> None:
        """Have these runs read again, and all controllers."""
        for run_id in run_ids:
            self._runs.drop(run_id)
        self._controllers.clear()

    def count_active(self) -> None:
        """Take that a run became active; of those that end, the next count tells."""
        if self.most_active is not None:
            self.most_active += 1

    def controller(self, key: int) -> Controller | None:
        """Return a controller, if it is known."""
        return self._controllers.get(key)

    def learn_controller(self, controller: Controller) -> None:
        """Keep a controller as it was read."""
        self._controllers[controller.id] = controller

    def forget_controller(self, controller: Controller) -> None:
        """Have a controller read again, since it was changed."""
        self._controllers.pop(controller.id, None)

    def run(self, run_id: str) -> Run | None:
        """Return a run, if it is known; its controller may have been changed since."""
        entry = self._runs.get(run_id)
        return None if entry is None else entry.run

    def newest(self, run: Run) -> Decision | None:
        """Return a run's newest decision, if it is known."""
        entry = self._runs.get(run.id)
        return None if entry is None else entry.newest

    def learn_run(self, run: Run) -> None:
        """Keep a run as it stands."""
        known = self._runs.get(run.id)
        entry = _Entry(run, None if known is None else known.newest)
        self._runs.put(run.id, entry, entry.size)

    def learn_newest(self, run: Run, decision: Decision) -> None:
        """Keep the newest decision of a run, if the run is known."""
        if (entry := self._runs.get(run.id)) is not None:
            is_first, entry.newest = entry.newest is None, decision
            if is_first:  # later ones are as large
                self._runs.put(run.id, entry, entry.size)

    def forget_run(self, run: Run) -> None:
        """Have a run read again, since it was changed."""
        self._runs.drop(run.id)

    def with_controller(self, run: Run, controller: Controller) -> Run:
        """Return a known run under its controller as that stands now."""
        if run.controller is not controller:
            run = replace(run, controller=controller)
            if (entry := self._runs.get(run.id)) is not None:
                entry.run = run
        return run
