"""Journals, which pass work to the single writer: one commit per call, or group commit.

A server submits from its event loop. With SQLite, a group runs in the loop's thread and only the
disk sync runs in another: passing calls, answers and the GIL between two threads doubles a report's
cost. With a database server most of the time is spent waiting for it, so the whole group runs in
the other thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from agent_service.domain.errors import Unavailable
from agent_service.store.journal.writer import Job, Work, Writer, fail
from agent_service.store.sql.database import Locked

log = logging.getLogger(__name__)

GROUP_LIMIT = 256
"""Maximum number of calls in one transaction, so that a burst does not delay its first call."""
GATHER_TURNS = 16
"""Loop turns without a new call after which a group starts, if the last one had several calls; some
10 us each."""
IDLE_SECONDS = 0.00025
"""A caller that comes this long after the last commit is alone. A single caller reports some 600 us
after its last answer, 64 callers within 200 us of the last commit (measured)."""
BRIEF_SECONDS = 0.002
"""If the last commit took less than this, a lone call commits in the loop's thread."""
LOCK_SECONDS = 10.0
"""How long to wait for another process's write, such as the learner's, before calls fail."""
_LOCK_PAUSE = 0.002
_LOCKED = "the store is locked by another process: end that process, or wait; then retry"
_CLOSED = "the store is closed; retry with another server"


class Journal(Protocol):
    """Runs work in transactions."""

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Run `work` in a transaction; the future is done when it is durable.

        `run_id` names the run that it will look up.
        """
        ...

    def close(self) -> None:
        """Commit what was submitted, and refuse further work."""
        ...


class DirectJournal:
    """Commits each call in its own transaction, before `submit` returns. Thread-safe."""

    def __init__(self, writer: Writer) -> None:
        """Write through `writer`, which is closed with the journal."""
        self._writer = writer
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Run `work` in its own transaction; the future is done on return."""
        future: Future[Any] = Future()
        group = [Job(work, future, run_id)]
        with self._lock:
            if self._is_closed:
                fail(group, Unavailable(_CLOSED))
                return future
            try:
                _run_and_commit(self._writer, group)
            except Exception as error:
                fail(group, error)
            else:
                self._writer.settle()
        return future

    def close(self) -> None:
        """Refuse further work."""
        with self._lock:
            self._is_closed = True
            self._writer.close()


class ThreadJournal:
    """Commits each call in one dedicated thread, which may have another priority."""

    def __init__(self, thread: Executor, writer: Writer) -> None:
        """Write through `writer` in `thread`, which the caller still owns."""
        self._thread = thread
        self._journal = DirectJournal(writer)

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Run `work` in the thread, in its own transaction."""
        return self._thread.submit(lambda: self._journal.submit(work, run_id=run_id).result())

    def close(self) -> None:
        """Refuse further work."""
        self._journal.close()


def _run_and_commit(writer: Writer, group: list[Job]) -> None:
    """Run and commit a group in the calling thread; if it raises, nothing of it is stored."""
    gives_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            writer.run(group)
            break
        except Locked as error:
            if time.monotonic() > gives_up:
                raise Unavailable(_LOCKED) from error
        time.sleep(_LOCK_PAUSE)
    writer.commit()


class LoopJournal:
    """Group commit for the calls of one event loop; use it from the loop's thread only.

    A call waits for at most the commit in progress and its own. `submit` returns asyncio futures.
    """

    def __init__(self, writer: Writer) -> None:
        """Write through `writer`, which is closed with the journal, in the running event loop."""
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._waiting: list[Job] = []
        self._group: list[Job] = []
        self._locked_since: float | None = None
        self._is_due = False
        self._gather_turns = self._seen = self._idle_turns = 0
        self._ended = -math.inf
        self._is_closed = False
        self._step: Future[None] | None = None

    def submit(self, work: Work, *, run_id: str | None = None) -> Any:
        """Run `work` with the next group; the future is done when that is durable."""
        future: asyncio.Future[Any] = self._loop.create_future()
        job = Job(work, future, run_id)
        if self._is_closed:
            fail([job], Unavailable(_CLOSED))
        else:
            self._waiting.append(job)
            if self._is_alone():
                self._begin(in_loop=self._writer.commit_seconds < BRIEF_SECONDS)
            else:
                self._begin_soon()
        return future

    def _is_alone(self) -> bool:
        """Whether the only waiting call would get its own commit even if it waited for others."""
        is_free = not self._is_due and self._step is None and len(self._waiting) == 1
        was_alone = self._gather_turns == 0
        return is_free and was_alone and self._loop.time() - self._ended > IDLE_SECONDS

    def _begin_soon(self, pause: float = 0.0) -> None:
        """Begin the next group once the calls that are about to arrive have joined it."""
        if self._is_due or self._step is not None or not self._waiting:
            return
        self._is_due = True
        self._seen, self._idle_turns = 0, 0
        if pause:
            self._loop.call_later(pause, self._begin)
        else:
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Begin once the loop has made some turns without a new call.

        gRPC starts calls one by one: without waiting, 64 callers made groups of 1.2 calls. After a
        group of one, the next does not wait.
        """
        newcomers = len(self._waiting) - self._seen
        self._idle_turns = 0 if newcomers else self._idle_turns + 1
        self._seen = len(self._waiting)
        if self._idle_turns < self._gather_turns and self._seen < GROUP_LIMIT:
            self._loop.call_soon(self._gather)
        else:
            self._begin()

    def _begin(self, *, in_loop: bool = False) -> None:
        """Run a group and commit it, in the other thread if it would block the loop."""
        self._is_due = False
        group = self._next_group()
        if not group:
            self._begin_soon()
        elif self._writer.is_remote:
            self._group = group
            self._gather_turns = 0 if len(group) == 1 else GATHER_TURNS
            self._wait_for(partial(_run_and_commit, self._writer, group))
        elif self._run(group):
            self._gather_turns = 0 if len(group) == 1 else GATHER_TURNS
            self._commit(in_loop=in_loop)

    def _commit(self, *, in_loop: bool) -> None:
        if self._writer.commit_syncs and not in_loop:
            self._wait_for(self._writer.commit)
            return
        # Faster than starting it in the other thread, as a rule.
        self._commit_group()
        if self._writer.checkpoint_is_due:
            self._wait_for(self._writer.checkpoint)
        elif self._waiting:
            self._begin_soon()

    def _commit_group(self) -> None:
        try:
            self._writer.commit()
        except Exception as error:
            fail(self._group, error)
        else:
            self._writer.settle()
        self._group = []
        self._ended = self._loop.time()

    def _wait_for(self, step: Callable[[], None]) -> None:
        """Run a step of the writer in the other thread, then resolve the group and continue."""
        self._step = self._thread.submit(step)
        self._step.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._end_and_go_on))

    def _next_group(self) -> list[Job]:
        """Dequeue the calls of the next transaction, if any."""
        group = [job for job in self._waiting[:GROUP_LIMIT] if not job.future.done()]
        del self._waiting[:GROUP_LIMIT]
        return group

    def _run(self, group: list[Job]) -> bool:
        """Run a group in the loop's thread; return whether it must be committed."""
        try:
            self._writer.run(group)
        except Locked:
            self._wait_for_lock(group)
            return False
        except Exception as error:
            self._fail(group, error)
            return False
        self._locked_since = None
        self._group = group
        return True

    def _wait_for_lock(self, group: list[Job]) -> None:
        now = self._loop.time()
        self._locked_since = self._locked_since or now
        if now - self._locked_since > LOCK_SECONDS:
            self._fail(group, Unavailable(_LOCKED))
        else:
            self._waiting[:0] = group
            self._begin_soon(_LOCK_PAUSE)

    def _fail(self, group: list[Job], error: Exception) -> None:
        self._locked_since = None
        fail(group, error)
        self._begin_soon()

    def _end_and_go_on(self) -> None:
        if self._step is not None:
            self._end_step()
            self._begin_soon()

    def _end_step(self) -> None:
        assert self._step is not None
        error = self._step.exception()
        self._step = None
        if isinstance(error, Exception):
            # Nobody waits for a checkpoint: it is repeated, and commits report a broken disk.
            if not isinstance(error, Unavailable):  # already reported to callers and logged
                log.warning("the store: %s", error)
            fail(self._group, error)
        elif self._group:
            self._writer.settle()
        self._group = []
        self._ended = self._loop.time()

    def close(self) -> None:
        """Commit what was submitted, and refuse further work."""
        self._is_closed = True
        self._thread.shutdown(wait=True)
        if self._step is not None:
            self._end_step()
        while (group := self._next_group()) and self._run(group):
            self._commit_group()
        fail(self._waiting, Unavailable(_CLOSED))
        self._writer.close()
