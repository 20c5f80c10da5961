"""Prunes a store: its old runs are archived, and then leave it, while it is served.

Whatever dies when, each run is in the store or in the archive, and in one of them only:

1. runs are written to a pending file, which is synced and read back;
2. the store marks them as archived in it, if they still are as they were; from this moment on, and
   not before, the file is where they are;
3. the file is settled: those that were not marked go out of it, and it takes its name;
4. decisions of marked runs are deleted.

The next prune finds what a killed one left: pending files are settled by what the store says (3),
and marked runs are deleted to the end (4).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from agent_service.analysis.archive.folder import Archive
from agent_service.domain.retention import Deleted, OldRun, StoredRow
from agent_service.domain.store import Session, Store

T = TypeVar("T")

BATCH = 250
"""Decisions in one atomic step at the most, since reports wait for it."""
FILE_DECISIONS = 250_000
"""Decisions after which a file ends with its run."""
LEAST_PAUSE = 0.005
"""Seconds between two steps at the least: a server looks every 2 ms whether it may write."""
_PAGE = 500

AWAITED = "waiting to be learned from; deleting the controller ends that"
NEWEST = "the end of the log"
CHANGED = "changed while being archived"


@dataclass(slots=True)
class Share:
    """What goes of one controller."""

    runs: int = 0
    transitions: int = 0
    size: int = 0
    """Bytes of the values in the store."""


@dataclass(slots=True)
class Plan:
    """What may go and what stays."""

    going: list[OldRun] = field(default_factory=list)
    staying: Counter[str] = field(default_factory=Counter)
    """Runs that are old enough, by why they stay."""

    @property
    def decisions(self) -> int:
        """How many go."""
        return sum(run.decisions for run in self.going)

    def leave(self, stayed: Sequence[OldRun]) -> None:
        """Note runs that changed meanwhile, and so did not go."""
        keys = {run.key for run in stayed}
        self.going = [run for run in self.going if run.key not in keys]
        if stayed:
            self.staying[CHANGED] += len(stayed)

    def shares(self) -> dict[str, Share]:
        """Return what goes, by controller."""
        shares: dict[str, Share] = {}
        for run in self.going:
            share = shares.setdefault(run.controller, Share())
            share.runs += 1
            # A run has one decision more than it has transitions: the last one awaits its report.
            share.transitions += run.decisions - 1
            share.size += run.size
        return shares


def make_plan(store: Store, *, before: float) -> Plan:
    """Return what goes of the runs whose last accepted call came before `before` (s since 1970)."""
    plan, after = Plan(), 0
    while page := store.read(partial(_old_runs, before=before, after=after)):
        for run in page:
            if run.is_newest:
                plan.staying[NEWEST] += 1
            elif run.is_awaited:
                plan.staying[AWAITED] += 1
            else:
                plan.going.append(run)
        after = page[-1].key
    return plan


class Pruner:
    """Prunes one store into one archive."""

    def __init__(
        self, store: Store, archive: Archive, *, batch: int = BATCH, per_file: int = FILE_DECISIONS
    ) -> None:
        """Keep both; own neither. `batch` and `per_file` are decisions, at least 1."""
        self._store = store
        self._archive = archive
        self._batch = batch
        self._per_file = per_file

    def finish_killed(self) -> list[str]:
        """Settle and delete what a killed prune left; the archive must be kept from others.

        Returns:
            Archive files of which the store still has decisions, and that are elsewhere.
        """
        for archive in self._archive.pending():
            self._settle(archive)
        left = self._store.read(lambda session: session.archives_left())
        for archive in left:
            if self._archive.has(archive):
                self._delete(archive, told=lambda _count: None)
        return [archive for archive in left if not self._archive.has(archive)]

    def prune(self, plan: Plan, *, told: Callable[[int], None]) -> list[OldRun]:
        """Archive and delete what a plan says; the archive must be kept from others.

        Args:
            plan: of this store.
            told: how many decisions a step archived or deleted: each decision counts twice.

        Returns:
            Runs that stay, since they have changed meanwhile.
        """
        stayed: list[OldRun] = []
        for runs in _files(plan.going, self._per_file):
            checksums: dict[int, int] = {}
            archive = self._archive.add(self._logs(runs, checksums, told))
            stayed += self._mark(runs, checksums, archive)
            if self._settle(archive):
                self._delete(archive, told=told)
        return stayed

    def _logs(
        self, runs: Sequence[OldRun], checksums: dict[int, int], told: Callable[[int], None]
    ) -> Iterator[Sequence[StoredRow]]:
        """Yield the rows of each run, and note the sum of their checksums by key.

        A run that another prune archives just now is left out.
        """
        for run in runs:
            log: list[StoredRow] = []
            while page := self._store.read(
                partial(_page, run=run, after=log[-1]["decision_chunk"] if log else 0)
            ):
                log += page
            told(len(log))
            if len(log) == run.decisions:
                checksums[run.key] = sum(row["decision_checksum"] or 0 for row in log)
                yield log

    def _mark(
        self, runs: Sequence[OldRun], checksums: dict[int, int], archive: str
    ) -> list[OldRun]:
        """Mark runs that are as they were archived; return the others."""
        stayed = [run for run in runs if run.key not in checksums]
        for some in _files([run for run in runs if run.key in checksums], self._batch):
            stayed += self._step(
                partial(_mark_some, runs=some, checksums=checksums, archive=archive)
            )
        return stayed

    def _settle(self, archive: str) -> bool:
        """Let a pending file hold what the store says; return whether that is anything."""
        marked = self._store.read(lambda session: session.archived_runs(archive))
        self._archive.settle(archive, marked)
        return bool(marked)

    def _delete(self, archive: str, *, told: Callable[[int], None]) -> None:
        key = 0
        while True:
            deleted = self._step(
                partial(_delete_some, archive=archive, after=key, limit=self._batch)
            )
            told(deleted.rows)
            if deleted.rows < self._batch:
                return
            key = deleted.last_key

    def _step(self, work: Callable[[Session], T]) -> T:
        """Take one atomic step, then let others write for as long as it took."""
        began = time.monotonic()
        result = self._store.write(work).result()
        time.sleep(max(time.monotonic() - began, LEAST_PAUSE))
        return result


def _page(session: Session, *, run: OldRun, after: int) -> Sequence[StoredRow]:
    return session.stored_rows(run, after=after, limit=_PAGE)


def _old_runs(session: Session, *, before: float, after: int) -> Sequence[OldRun]:
    return session.old_runs(before=before, after=after, limit=_PAGE)


def _mark_some(
    session: Session, *, runs: Sequence[OldRun], checksums: Mapping[int, int], archive: str
) -> list[OldRun]:
    """Mark runs as archived; return those that are not as they were archived."""
    return [
        run
        for run in runs
        if not session.mark_archived(run, archive=archive, checksums=checksums[run.key])
    ]


def _delete_some(session: Session, *, archive: str, after: int, limit: int) -> Deleted:
    return session.delete_archived(archive, after=after, limit=limit)


def _files(runs: Sequence[OldRun], decisions: int) -> Iterator[Sequence[OldRun]]:
    """Yield all runs, in slices of so many decisions or little more, or of one longer run."""
    some: list[OldRun] = []
    count = 0
    for run in runs:
        if some and count + run.decisions > decisions:
            yield some
            some, count = [], 0
        some.append(run)
        count += run.decisions
    if some:
        yield some
