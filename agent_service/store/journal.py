"""Group commit: one writer thread, one transaction for all that waits, answered when it is durable.

One call that fails takes nothing of the others with it. Nobody waits for more than the commit in
progress and the own.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.store.known import Known, Overtaken
from agent_service.store.queries import data_version
from agent_service.store.session import SqlSession

log = logging.getLogger(__name__)

GROUP_LIMIT = 256
"""Calls in one transaction at the most, so that a burst does not delay the first of it."""
STORAGE_ERRORS = (sa.exc.OperationalError, sqlite3.OperationalError)
"""How SQLAlchemy, or the driver itself, says that the storage fails: full, locked, not there."""


Work = Callable[[SqlSession], Any]
"""What runs in a transaction. It may be rolled back and run again, so it does nothing but through
the session."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any
    calls: list[Callable[[], None]]
    """What waits for the commit."""


class _Spoilt(Exception):
    """A job failed after it had written: the transaction cannot be kept."""


class Journal:
    """The one writer of a database. Close it; what was submitted before is still committed."""

    def __init__(self, engine: sa.Engine, *, observe_commit: Callable[[float, int], None]) -> None:
        """Start the writer thread on a connection of `engine`.

        Args:
            engine: its transactions must lock for writing from their beginning.
            observe_commit: told each commit's seconds and the number of callables in it.
        """
        self._engine = engine
        self._known = Known()
        self._observe_commit = observe_commit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Queue `work`; the future has its result when the transaction is committed."""
        future: Future[Any] = Future()
        with self._closing:
            if self._is_closed:
                future.set_exception(Unavailable("the store is closed; retry with another server"))
            else:
                self._jobs.put(_Job(work, future))
        return future

    def close(self) -> None:
        """Commit what waits and end the thread."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group, is_open = self._next_group()
            if group:
                self._commit(group)

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a job, then take all that came meanwhile; the flag is False at the end."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP_LIMIT:
                return group, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            outcomes = self._run_group(group)
        except STORAGE_ERRORS as error:
            cause = getattr(error, "orig", error)
            _fail_all(group, Unavailable(f"the store took nothing ({cause}); retry"))
            return
        except Exception as error:
            _fail_all(group, error)
            return
        self._observe_commit(time.perf_counter() - started, len(group))
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, _Done):
                _tell(outcome.calls)
                job.future.set_result(outcome.result)
            else:
                job.future.set_exception(outcome)

    def _run_group(self, group: list[_Job]) -> list[_Done | Exception]:
        """Run and commit a group; return what each returned or raised.

        At first as if none could fail after it has written: a savepoint costs as much as two more
        statements. Where one does, all is rolled back and run again, each in a savepoint.
        """
        try:
            with self._transaction() as session:
                return [_run(session, job) for job in group]
        except _Spoilt:
            with self._transaction() as session:
                return [_run_in_savepoint(session, job) for job in group]

    @contextmanager
    def _transaction(self) -> Iterator[SqlSession]:
        try:
            with self._engine.begin() as connection:
                self._known.see(data_version(connection))
                yield SqlSession(connection, self._known)
        except BaseException:
            self._known.forget()
            raise


def _run(session: SqlSession, job: _Job) -> _Done | Exception:
    before = session.changes
    try:
        return _Done(job.work(session), session.take_calls())
    except STORAGE_ERRORS:
        raise  # the storage itself fails: nothing of this group can be trusted to be in it
    except Exception as error:
        if isinstance(error, Overtaken) or session.changes != before:
            raise _Spoilt from error
        session.take_calls()
        return error


def _run_in_savepoint(session: SqlSession, job: _Job) -> _Done | Exception:
    try:
        with session.savepoint():
            return _Done(job.work(session), session.take_calls())
    except STORAGE_ERRORS:
        raise
    except Exception as error:
        return error


def _tell(calls: list[Callable[[], None]]) -> None:
    """Call those who wait for the commit; what they raise must not end the only writer."""
    for call in calls:
        try:
            call()
        except Exception:
            log.exception("an observer of the log failed")


def _fail_all(group: list[_Job], error: Exception) -> None:
    for job in group:
        job.future.set_exception(error)
