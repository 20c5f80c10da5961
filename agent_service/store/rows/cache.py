"""The writer's cache of runs, latest decisions and controllers.

Stale entries do no harm: a run is updated only if the database still has the cached state
(`StaleWrite` otherwise), and controllers are dropped when another process commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent_service.domain.caches import SizedCache
from agent_service.domain.runs import Controller, Decision, Run

RUNS_KEPT = 16_384
"""Maximum number of cached runs; others are read again when they report."""
RUNS_BYTES = 64 * 2**20
"""Maximum total size: some 2 kB per run, plus its labels and the losses of its last chunk."""


class StaleWrite(Exception):
    """Another process changed the run: drop the cached one, and repeat the work."""


@dataclass(slots=True)
class CachedRun:
    """The current state of a run; its controller may have changed since."""

    run: Run
    newest: Decision | None = None
    """The decision that the run's child trains under; None if it was not read."""

    @property
    def size(self) -> int:
        """Approximate size in bytes, with the losses of one chunk."""
        labels = sum(len(key) + len(text) for key, text in self.run.labels.items())
        return 2048 + labels + 8 * self.run.controller.spec.chunk_size


class RunCache:
    """Runs by id, with their newest decision, and controllers by key. Not thread-safe."""

    def __init__(self, *, keeps_runs: bool = True) -> None:
        """Start empty.

        Args:
            keeps_runs: whether to keep runs when another process has committed.
        """
        self._keeps_runs = keeps_runs
        self.data_version: int | None = None
        """The database's count of other processes' commits as of which this is valid."""
        self.runs: SizedCache[str, CachedRun] = SizedCache(entries=RUNS_KEPT, size=RUNS_BYTES)
        self.controllers: dict[int, Controller] = {}
        self.next_position: int | None = None
        """Log position of the next decision; None if unknown."""
        self.most_active: int | None = None
        """Upper bound of the number of active runs; None if unknown."""

    def see(self, data_version: int) -> None:
        """Drop what a commit of another process may have changed."""
        self.controllers.clear()
        if not self._keeps_runs:
            self.runs.clear()
        self.next_position = None
        self.most_active = None
        self.data_version = data_version

    def clear(self) -> None:
        """Drop everything, since a transaction was rolled back."""
        self.runs.clear()
        self.controllers.clear()
        self.next_position = None
        self.most_active = None

    def drop(self, run_ids: Iterable[str]) -> None:
        """Drop these runs, and all controllers."""
        for run_id in run_ids:
            self.runs.drop(run_id)
        self.controllers.clear()

    def count_active(self) -> None:
        """Count a run that became active; ended runs are subtracted by the next query."""
        if self.most_active is not None:
            self.most_active += 1

    def keep_run(self, run: Run, newest: Decision | None = None) -> None:
        """Cache an active run."""
        cached = CachedRun(run, newest)
        self.runs.put(run.id, cached, cached.size)
