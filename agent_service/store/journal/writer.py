"""The single writer of a database: runs a group of calls in one transaction.

A call that fails does not affect the others.
"""

from __future__ import annotations

import logging
import math
import time
from asyncio import Future as LoopFuture
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agent_service.store.rows.cache import RunCache, StaleWrite
from agent_service.store.rows.session import Session
from agent_service.store.sql.database import Database, Locked
from agent_service.store.sql.failures import is_storage_failure, unavailable
from agent_service.store.sql.queries import driver_of

log = logging.getLogger(__name__)

CHECKPOINT_CALLS = 250
"""Calls between checkpoints: some 1,000 pages, after which SQLite would start one in a commit."""

Work = Callable[[Session], Any]
"""Work in a transaction. It may be rolled back and run again, so all its effects must go through
the session."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work, and the future that its caller waits for."""

    work: Work
    future: Future[Any] | LoopFuture[Any]
    run_id: str | None
    """The run that it looks up, if any."""


@dataclass(frozen=True, slots=True)
class _Result:
    result: Any
    calls: Sequence[Callable[[], None]]
    """Callbacks to run after the commit."""


class _DirtyTransaction(Exception):
    """A job failed after it had written: the transaction must be rolled back."""


class Writer:
    """Runs groups, one at a time: `run`, then `commit`, then `settle`. Not thread-safe.

    `run` and `commit` may be called in different threads, since a commit waits for the disk.
    """

    def __init__(
        self,
        engine: sa.Engine,
        database: Database,
        *,
        observe_commit: Callable[[float, int], None],
    ) -> None:
        """Write through a connection of `engine`.

        Args:
            engine: the database's engine for writing.
            database: begins transactions.
            observe_commit: called with each commit's duration in seconds and its number of calls.
        """
        self.commit_syncs = database.commit_syncs
        """Whether a commit waits for the disk; if not, a due `checkpoint` does."""
        self.commit_seconds = math.inf
        """Duration of the last commit; infinite before the first."""
        self.checkpoint_is_due = False
        """Whether to call `checkpoint` before the next group."""
        self._calls = 0
        self._engine = engine
        self._database = database
        self._observe_commit = observe_commit
        self.is_remote = database.is_server
        """Whether `run` and `commit` wait for a database server."""
        self._cache = RunCache(keeps_runs=not database.is_server)
        self._connection: sa.Connection | None = None
        self._driver: Any
        self._session: Session
        self._group: Sequence[Job] = ()
        self._outcomes: list[_Result | Exception] = []
        self._started = 0.0

    def run(self, group: Sequence[Job]) -> None:
        """Run a group in a transaction, and leave it open.

        Raises:
            Locked: another process is writing; nothing was run.
            Exception: the storage failed (`is_storage_failure`); nothing is stored.
        """
        self._started = time.perf_counter()
        self._group = group
        try:
            self._outcomes = self._run(group, _run)
        except (_DirtyTransaction, StaleWrite):
            # Savepoints cost as much as two more statements, so they are used only after a failure.
            self._outcomes = self._run(group, _run_in_savepoint)

    def _run(
        self, group: Sequence[Job], run: Callable[[Session, Job], _Result | Exception]
    ) -> list[_Result | Exception]:
        if self._connection is None:
            self._connect()
        session = self._session
        try:
            # By the driver: beginning takes it 5 us, SQLAlchemy 20 us.
            version = self._database.begin(self._driver)
            if version != self._cache.data_version:
                self._cache.see(version)
            if self.is_remote:
                session.prefetch(job.run_id for job in group if job.run_id is not None)
            outcomes = [run(session, job) for job in group]
            if self.is_remote:
                session.sender.finish()
            return outcomes
        except Locked:
            raise
        except BaseException:
            self._roll_back()
            raise

    def _connect(self) -> None:
        self._connection = self._engine.connect()
        self._driver = driver_of(self._connection)
        self._session = Session(self._connection, self._cache)

    def commit(self) -> None:
        """Commit what `run` did; if the storage fails, nothing of it is acknowledged."""
        began = time.perf_counter()
        try:
            self._driver.execute("COMMIT")
            self._database.check_place()
        except BaseException:
            self._roll_back()
            raise
        self.commit_seconds = time.perf_counter() - began
        self._calls += len(self._group)
        self.checkpoint_is_due = not self.commit_syncs and self._calls >= CHECKPOINT_CALLS

    def checkpoint(self) -> None:
        """Checkpoint the write-ahead log into the database, so that the log stays short."""
        self._calls, self.checkpoint_is_due = 0, False
        self._database.checkpoint(self._driver)

    def _roll_back(self) -> None:
        """Drop the connection and its transaction; the next group opens a new one."""
        self._cache.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            # So that closing it does not ask a failed database to roll back.
            connection.invalidate()
            connection.close()

    def settle(self) -> None:
        """Resolve the futures of the group with their own results or errors."""
        self._observe_commit(time.perf_counter() - self._started, len(self._group))
        for job, outcome in zip(self._group, self._outcomes, strict=True):
            if isinstance(outcome, _Result):
                for call in outcome.calls:
                    try:
                        call()
                    except Exception:  # must not end the single writer
                        log.exception("an observer of the log failed")
            if job.future.done():
                continue  # its caller has gone
            if isinstance(outcome, _Result):
                job.future.set_result(outcome.result)
            else:
                job.future.set_exception(outcome)

    def close(self) -> None:
        """Close the connection."""
        self._roll_back()


def fail(group: Sequence[Job], error: Exception) -> None:
    """Fail the futures of a group, of which nothing was stored."""
    if is_storage_failure(error):
        error = unavailable(error)
    for job in group:
        if not job.future.done():
            job.future.set_exception(error)


def _run(session: Session, job: Job, *, is_again: bool = False) -> _Result | Exception:
    """Run a job; if it fails, run it again without the cache, which may be stale."""
    session.calls, session.looked_up = [], []
    before = session.sender.sent
    try:
        return _Result(job.work(session), session.calls)
    except Exception as error:
        if is_storage_failure(error):
            raise  # the whole transaction is in doubt
        if isinstance(error, StaleWrite) or session.sender.sent != before:
            raise _DirtyTransaction from error
        if is_again:
            return error
    session.forget()
    return _run(session, job, is_again=True)


def _run_in_savepoint(session: Session, job: Job) -> _Result | Exception:
    session.calls, session.looked_up = [], []
    try:
        with session.savepoint():
            return _Result(job.work(session), session.calls)
    except Exception as error:
        if is_storage_failure(error):
            raise
        return error
