"""The writer's cache: runs, their newest decisions, controllers.

Nothing here is trusted on its own word. A run is changed only where the database still holds what
is cached of it (`StaleWrite` otherwise), and controllers are dropped when another process commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent_service.domain.caches import SizedCache
from agent_service.domain.runs import Controller, Decision, Run

RUNS_KEPT = 16_384
"""Runs in memory at the most; others are read again when they report."""
RUNS_BYTES = 64 * 2**20
"""Of those together: some 2 kB each, their labels, and the losses of their last chunk."""


class StaleWrite(Exception):
    """Another process changed the run meanwhile: drop what is cached, and repeat the step."""


@dataclass(slots=True)
class CachedRun:
    """A run as it stands, under a controller that may have been changed since."""

    run: Run
    newest: Decision | None = None
    """The decision that the run's child trains under, where it is known."""

    @property
    def size(self) -> int:
        """Bytes, about, with the losses of a chunk."""
        labels = sum(len(key) + len(text) for key, text in self.run.labels.items())
        return 2048 + labels + 8 * self.run.controller.spec.chunk_size


class RunCache:
    """Runs by id, with their newest decision, and controllers by key. One thread uses it."""

    def __init__(self, *, keeps_runs: bool = True) -> None:
        """Begin empty.

        Args:
            keeps_runs: whether runs are kept when another process has committed.
        """
        self._keeps_runs = keeps_runs
        self.data_version: int | None = None
        """The database's count of other processes' commits, up to which this is right."""
        self.runs: SizedCache[str, CachedRun] = SizedCache(entries=RUNS_KEPT, size=RUNS_BYTES)
        self.controllers: dict[int, Controller] = {}
        self.next_position: int | None = None
        """The place in the log of the next decision, where it is known."""
        self.most_active: int | None = None
        """At least as many as runs are active, where that is known."""

    def see(self, data_version: int) -> None:
        """Drop what another process's commit may have changed."""
        self.controllers.clear()
        if not self._keeps_runs:
            self.runs.clear()
        self.next_position = None
        self.most_active = None
        self.data_version = data_version

    def clear(self) -> None:
        """Drop all, since a transaction was rolled back or overtaken."""
        self.runs.clear()
        self.controllers.clear()
        self.next_position = None
        self.most_active = None

    def drop(self, run_ids: Iterable[str]) -> None:
        """Have these runs read again, and all controllers."""
        for run_id in run_ids:
            self.runs.drop(run_id)
        self.controllers.clear()

    def count_active(self) -> None:
        """Count a run that became active; those that end leave with the next count."""
        if self.most_active is not None:
            self.most_active += 1

    def keep_run(self, run: Run, newest: Decision | None = None) -> None:
        """Keep a run that was read, or became active again."""
        cached = CachedRun(run, newest)
        self.runs.put(run.id, cached, cached.size)
