"""Prunes a store: exports old runs to Parquet files, then deletes them, while the store is served.

No transition is lost, whenever the process dies:

1. the runs' transitions are written to a file `NAME.part`, which is synced and compared with the
   store;
2. the store marks the runs that have not changed as archived in NAME, which hides them from reads;
3. the file gets its name; if some runs had changed, it is first rewritten without them;
4. the rows of marked runs are deleted in small batches.

The next prune completes what a killed one left: if the file has its name, it deletes the rows (4);
if it is still a part, nothing was deleted, and it removes the marks.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from agent_service.analysis.parquet import same_parquet, write_parquet
from agent_service.analysis.records import FIELDS, transition_record
from agent_service.analysis.tables import Table
from agent_service.domain.errors import AgentError
from agent_service.store.rows.retention import OldRun
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from agent_service.wire.convert import transition_to_message

T = TypeVar("T")

BATCH = 250
"""Maximum number of decisions in one atomic step, since reports wait for it."""
FILE_DECISIONS = 250_000
"""Number of decisions after which a file ends with the current run."""
LEAST_PAUSE = 0.005
"""Minimum pause between two steps in seconds: a server that waits for the lock polls every 2 ms."""
_PAGE = 500
_PART = ".part"

AWAITED = "waiting to be learned from; delete the controller to prune them"
NEWEST = "the end of the log"
CHANGED = "changed while being archived"


class ArchiveError(AgentError):
    """An archive cannot be written; the message says why."""


@dataclass(slots=True)
class Share:
    """Totals of one controller's pruned runs."""

    runs: int = 0
    transitions: int = 0
    size: int = 0
    """Bytes of the values in the store."""


@dataclass(slots=True)
class Plan:
    """Which old runs are pruned, and which stay."""

    going: list[OldRun] = field(default_factory=list)
    staying: Counter[str] = field(default_factory=Counter)
    """Counts of old runs that stay, by reason."""

    @property
    def decisions(self) -> int:
        """Number of decisions to prune."""
        return sum(run.decisions for run in self.going)

    def leave(self, stayed: Sequence[OldRun]) -> None:
        """Move runs that changed meanwhile from `going` to `staying`."""
        keys = {run.key for run in stayed}
        self.going = [run for run in self.going if run.key not in keys]
        if stayed:
            self.staying[CHANGED] += len(stayed)

    def shares(self) -> dict[str, Share]:
        """Return the totals of `going`, by controller."""
        shares: dict[str, Share] = {}
        for run in self.going:
            share = shares.setdefault(run.controller, Share())
            share.runs += 1
            # The last decision of a run has no transition: it awaits its report.
            share.transitions += run.decisions - 1
            share.size += run.size
        return shares


def make_plan(store: SqlStore, *, before: float) -> Plan:
    """Plan for the ended runs whose last accepted call was before `before` (s since 1970)."""
    plan, after = Plan(), 0
    while page := store.read(partial(Session.old_runs, before=before, after=after, limit=_PAGE)):
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
    """Prunes a store into a folder of Parquet files, whose names sort by time."""

    def __init__(
        self, store: SqlStore, folder: Path, *, batch: int = BATCH, per_file: int = FILE_DECISIONS
    ) -> None:
        """Prune `store` into `folder`.

        Args:
            store: the store, which the caller closes.
            folder: created if it does not exist.
            batch: maximum number of decisions in one atomic step, at least 1.
            per_file: number of decisions after which a file ends, at least 1.
        """
        self._store = store
        self._folder = folder
        self._batch = batch
        self._per_file = per_file

    @contextmanager
    def pruning(self) -> Iterator[Sequence[str]]:
        """Lock the folder against other prunes, and complete what a killed one left.

        Yields the names of archive files in other folders whose rows are still in the store.

        Raises:
            ArchiveError: another prune works on this folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArchiveError(
                    f"another prune works on the archive {self._folder}; wait until it ends"
                ) from error
            yield self._complete_killed()

    def _complete_killed(self) -> list[str]:
        elsewhere = []
        for name in self._store.read(Session.archives_left):
            if (self._folder / name).is_file():
                self._delete(name, progress=lambda _count: None)
            elif self._part(name).is_file():
                self._unmark(name)
            else:
                elsewhere.append(name)
        for part in self._folder.glob(f"*{_PART}"):  # of a prune that marked nothing
            part.unlink()
        return elsewhere

    def prune(self, plan: Plan, *, progress: Callable[[int], None]) -> list[OldRun]:
        """Archive and delete the runs of a plan, inside `pruning`.

        Args:
            plan: a plan for this store.
            progress: called with the number of decisions of each step; each decision counts twice,
                when it is archived and when it is deleted.

        Returns:
            Runs that stay, since they changed meanwhile.

        Raises:
            ArchiveError: a file cannot be written, or does not read back as it was written.
            Unavailable: a row is damaged; nothing is deleted.
        """
        stayed: list[OldRun] = []
        for runs in _files(plan.going, self._per_file):
            moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            name = f"runs-{moment}-{uuid.uuid4().hex[:8]}.parquet"
            try:
                changed = self._archive(name, runs)
            except BaseException:
                self._unmark(name)
                raise
            progress(sum(run.decisions for run in runs))
            stayed += changed
            self._delete(name, progress=progress)
        return stayed

    def _archive(self, name: str, runs: Sequence[OldRun]) -> list[OldRun]:
        """Write and mark runs, and name the file; return those that changed meanwhile."""
        is_same = self._write(name, [run.key for run in runs])
        changed: list[OldRun] = []
        for some in _slices(runs, self._batch):
            changed += self._step(partial(_mark_some, runs=some, archive=name))
        left = [run.key for run in runs if run not in changed]
        if not left:
            self._part(name).unlink()
            return changed
        if changed:
            is_same = self._write(name, left)
        if not is_same:  # checked last: until they are marked, others may change or delete runs
            raise ArchiveError(f"{self._part(name)} does not read back as written; check its disk")
        os.replace(self._part(name), self._folder / name)
        _sync(self._folder)
        return changed

    def _unmark(self, name: str) -> None:
        """Remove an incomplete file, and keep its runs in the store."""
        self._step(lambda session: session.unmark_archived(name))
        self._part(name).unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}{_PART}"

    def _write(self, name: str, keys: Sequence[int]) -> bool:
        """Write runs, by key, to the part of a file, durably; return whether it reads back so."""
        part = self._part(name)
        try:
            write_parquet(Table(records=self._records(keys), fields=FIELDS), part)
            _sync(part)
            is_same = same_parquet(Table(records=self._records(keys), fields=FIELDS), part)
            _sync(self._folder)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise ArchiveError(f"{part}: {' '.join(str(error).split())}") from error
        return is_same

    def _records(self, keys: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the transitions of runs, run by run, as the command `transitions` shows them."""
        for key in keys:
            after = 0
            while page := self._store.read(
                partial(Session.run_transitions, key=key, after=after, limit=_PAGE)
            ):
                for run, transition in page:
                    yield transition_record(transition_to_message(run, transition))
                after = page[-1][1].decision.chunk

    def _delete(self, name: str, *, progress: Callable[[int], None]) -> None:
        key = 0
        while True:
            deleted = self._step(
                partial(Session.delete_archived, archive=name, after=key, limit=self._batch)
            )
            progress(deleted.rows)
            if deleted.rows < self._batch:
                return
            key = deleted.last_key

    def _step(self, work: Callable[[Session], T]) -> T:
        """Run one atomic step, then pause as long as it took, so that others can write."""
        began = time.monotonic()
        result = self._store.write(work).result()
        time.sleep(max(time.monotonic() - began, LEAST_PAUSE))
        return result


def _mark_some(session: Session, *, runs: Sequence[OldRun], archive: str) -> list[OldRun]:
    """Mark runs as archived; return those that have changed."""
    return [run for run in runs if not session.mark_archived(run, archive=archive)]


def _files(runs: Sequence[OldRun], decisions: int) -> Iterator[Sequence[OldRun]]:
    """Yield the runs of each file: of one controller only, so that all have the same columns."""
    by_controller = sorted(runs, key=lambda run: (run.controller, run.key))
    for _, of_one in groupby(by_controller, key=lambda run: run.controller):
        yield from _slices(list(of_one), decisions)


def _slices(runs: Sequence[OldRun], decisions: int) -> Iterator[Sequence[OldRun]]:
    """Yield the runs in slices of at most this many decisions, or of one longer run."""
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


def _sync(path: Path) -> None:
    """Sync a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
