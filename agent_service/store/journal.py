"""Group commit: one writer thread, one transaction for all that waits, answered when it is durable.

Knows nothing of tables: it runs callables, and one that fails takes nothing of the others with it.
Nobody waits for more than the commit in progress and the own.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.store.failures import is_of_storage, unavailable

log = logging.getLogger(__name__)

GROUP_LIMIT = 256
"""Callables in one transaction at the most, so that a burst does not delay the first of it."""


_Done = tuple[Any, list[Callable[[], None]]]
Work = Callable[[sa.Connection], _Done]
"""What runs in a transaction: returns its result and what to call once that is durable.

It may be rolled back and run again, so it does nothing but through the connection.
"""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    future: Future[Any]


class Journal:
    """The one writer of a database. Close it; what was submitted before is still committed."""

    def __init__(self, engine: sa.Engine, *, observe_commit: Callable[[float, int], None]) -> None:
        """Start the writer thread on a connection of `engine`.

        Args:
            engine: its transactions must lock for writing from their beginning.
            observe_commit: told each commit's seconds and the number of callables in it.
        """
        self._engine = engine
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
        except Exception as error:
            _fail_all(group, unavailable(error) if is_of_storage(error) else error)
            return
        self._observe_commit(time.perf_counter() - started, len(group))
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                result, calls = outcome
                _tell(calls)
                job.future.set_result(result)

    def _run_group(self, group: list[_Job]) -> list[_Done | Exception]:
        """Run and commit a group; return what each returned or raised.

        At first as if none could fail: a savepoint costs as much as two more statements. Where one
        fails, all is rolled back and run again, each in a savepoint.
        """
        try:
            with self._engine.begin() as connection:
                return [job.work(connection) for job in group]
        except Exception as error:
            if is_of_storage(error):
                raise  # nothing of this group can be trusted to be in it
            if len(group) == 1:
                return [error]
        with self._engine.begin() as connection:
            return [_run_in_savepoint(connection, job) for job in group]


def _run_in_savepoint(connection: sa.Connection, job: _Job) -> _Done | Exception:
    try:
        with connection.begin_nested():
            return job.work(connection)
    except Exception as error:
        if is_of_storage(error):
            raise
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
