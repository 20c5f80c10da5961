"""The one writer of a database: runs a group of calls in one transaction.

One call that fails takes nothing of the others with it.
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
from agent_service.store.rows.session import SqlSession
from agent_service.store.sql.database import Database, Locked
from agent_service.store.sql.failures import is_of_storage, unavailable
from agent_service.store.sql.queries import driver_of

log = logging.getLogger(__name__)

CHECKPOINT_CALLS = 250
"""Calls between checkpoints: some 1,000 pages, after which SQLite would make one of its own."""

Work = Callable[[SqlSession], Any]
"""What runs in a transaction. It may be rolled back and run again, so it does nothing but through
the session."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call, and who waits for it."""

    work: Work
    future: Future[Any] | LoopFuture[Any]
    run_id: str | None
    """The run that it looks up, where it does."""


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any
    calls: Sequence[Callable[[], None]]
    """What waits for the commit."""


class _Spoilt(Exception):
    """A job failed after it had written: the transaction cannot be kept."""


class Writer:
    """Runs groups, one at a time: `run`, then `commit`, then `settle`. Not thread-safe.

    `run` and `commit` may be called in different threads, as a commit waits for the disk.
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
            engine: the database's for writing.
            database: how its transactions begin.
            observe_commit: told each commit's seconds and the number of calls in it.
        """
        self.commit_syncs = database.commit_syncs
        """Whether a commit waits for the disk; if not, `checkpoint` does, when due."""
        self.commit_seconds = math.inf
        """What the last commit took; of the first, nothing good is expected."""
        self.checkpoint_is_due = False
        """Whether to call `checkpoint` before the next group."""
        self._calls = 0
        self._engine = engine
        self._database = database
        self._observe_commit = observe_commit
        self.is_of_server = database.is_server
        """Whether `run` and `commit` wait for a server."""
        self._cache = RunCache(keeps_runs=not database.is_server)
        self._connection: sa.Connection | None = None
        self._driver: Any
        self._session: SqlSession
        self._group: Sequence[Job] = ()
        self._outcomes: list[_Done | Exception] = []
        self._started = 0.0

    def run(self, group: Sequence[Job]) -> None:
        """Run a group in a transaction, and leave that open.

        Raises:
            Locked: another process writes; nothing was run.
            Exception: the storage fails (`is_of_storage`); nothing is kept.
        """
        self._started = time.perf_counter()
        self._group = group
        try:
            self._outcomes = self._run(group, _run)
        except (_Spoilt, StaleWrite):
            # A savepoint costs as much as two more statements, so there are none until one fails.
            self._outcomes = self._run(group, _run_in_savepoint)

    def _run(
        self, group: Sequence[Job], run: Callable[[SqlSession, Job], _Done | Exception]
    ) -> list[_Done | Exception]:
        if self._connection is None:
            self._connect()
        session = self._session
        try:
            # In the driver's own words, as SQLAlchemy takes 20 us for a transaction to its 5.
            version = self._database.begin(self._driver)
            if version != self._cache.data_version:
                self._cache.see(version)
            if self.is_of_server:
                session.foresee(job.run_id for job in group if job.run_id is not None)
            outcomes = [run(session, job) for job in group]
            if self.is_of_server:
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
        self._session = SqlSession(self._connection, self._cache)

    def commit(self) -> None:
        """Make what `run` did durable; where the storage fails, nothing of it is acknowledged."""
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
        """Bring what was committed from the database's log into place, so that the log ends."""
        self._calls, self.checkpoint_is_due = 0, False
        self._database.checkpoint(self._driver)

    def _roll_back(self) -> None:
        """End the transaction, and have the next one begin on a fresh connection."""
        self._cache.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            # To be closed without a word: a database that failed is not asked to roll back.
            connection.invalidate()
            connection.close()

    def settle(self) -> None:
        """Tell everybody who waits for the group what came of the own call."""
        self._observe_commit(time.perf_counter() - self._started, len(self._group))
        for job, outcome in zip(self._group, self._outcomes, strict=True):
            if isinstance(outcome, _Done):
                for call in outcome.calls:
                    try:
                        call()
                    except Exception:  # must not end the only writer
                        log.exception("an observer of the log failed")
            if job.future.done():
                continue  # who waited has gone
            if isinstance(outcome, _Done):
                job.future.set_result(outcome.result)
            else:
                job.future.set_exception(outcome)

    def close(self) -> None:
        """Let go of the connection."""
        self._roll_back()


def fail(group: Sequence[Job], error: Exception) -> None:
    """Tell everybody who waits for a group that nothing of it is kept."""
    if is_of_storage(error):
        error = unavailable(error)
    for job in group:
        if not job.future.done():
            job.future.set_exception(error)


def _run(session: SqlSession, job: Job, *, is_again: bool = False) -> _Done | Exception:
    """Run a job; one that is refused is run again on what is stored, not on what is cached."""
    session.calls, session.looked_up = [], []
    before = session.sender.sent
    try:
        return _Done(job.work(session), session.calls)
    except Exception as error:
        if is_of_storage(error):
            raise  # nothing of this group can be trusted to be in it
        if isinstance(error, StaleWrite) or session.sender.sent != before:
            raise _Spoilt from error
        if is_again:
            return error
    session.forget()
    return _run(session, job, is_again=True)


def _run_in_savepoint(session: SqlSession, job: Job) -> _Done | Exception:
    session.calls, session.looked_up = [], []
    try:
        with session.savepoint():
            return _Done(job.work(session), session.calls)
    except Exception as error:
        if is_of_storage(error):
            raise
        return error
