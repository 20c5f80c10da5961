"""Ways to the one writer: alone, call by call, or in an event loop, where calls share a commit.

A server's calls meet in its event loop. On a file, what they do is done there at once, in the
loop's own thread; the disk alone is waited for in another. Two threads that pass calls, answers and
Python's lock to and fro cost a report as much again as all that is done for it. On a database
server, most of a group's time is spent on waiting for it, so all of the group runs in the other.
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
"""Calls in one transaction at the most, so that a burst does not delay the first of it."""
PATIENCE = 16
"""Turns of the loop without a newcomer after which a group of several begins; some 10 us each."""
IDLE_SECONDS = 0.00025
"""A loop that took nothing up for so long had nothing to take up. One caller comes 600 us after its
last answer, 64 callers within 200 us of the last commit, as a rule (measured)."""
BRIEF_SECONDS = 0.002
"""A disk that synced within this is waited for in the loop, where nothing else is to be done."""
LOCK_SECONDS = 10.0
"""For how long another process's write is waited for, such as the learner's, before calls fail."""
_LOCK_PAUSE = 0.002
_LOCKED = "the store is locked: another process holds it: end that one, or wait; then retry"
_CLOSED = "the store is closed; retry with another server"


class Journal(Protocol):
    """Takes what is to be done in transactions."""

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Have `work` done, which looks up a run; its future is done when that is durable."""
        ...

    def close(self) -> None:
        """Commit what was submitted, and take no more."""
        ...


class DirectJournal:
    """Each call a transaction, done before `submit` returns. Thread-safe."""

    def __init__(self, writer: Writer) -> None:
        """Write through `writer`, and close it at the end."""
        self._writer = writer
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Do `work` in a transaction of its own; the future is done when this returns."""
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
        """Take no more."""
        with self._lock:
            self._is_closed = True
            self._writer.close()


class ThreadJournal:
    """Each call a transaction, done in one thread, whose priority is then not the callers'."""

    def __init__(self, thread: Executor, writer: Writer) -> None:
        """Write through `writer` in `thread`, which stays the caller's."""
        self._thread = thread
        self._journal = DirectJournal(writer)

    def submit(self, work: Work, *, run_id: str | None = None) -> Future[Any]:
        """Do `work` in the thread, in a transaction of its own."""
        return self._thread.submit(lambda: self._journal.submit(work, run_id=run_id).result())

    def close(self) -> None:
        """Take no more."""
        self._journal.close()


def _run_and_commit(writer: Writer, group: list[Job]) -> None:
    """Do all that a group needs in the caller's thread; raises where nothing of it is kept."""
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
    """Calls of one event loop: what waits shares a transaction. Of that loop's thread only.

    Nobody waits for more than the commit in progress and the own. `submit` answers asyncio futures.
    """

    def __init__(self, writer: Writer) -> None:
        """Write through `writer` in the running event loop, and close it at the end."""
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._waiting: list[Job] = []
        self._group: list[Job] = []
        self._locked_since: float | None = None
        self._is_due = False
        self._patience = self._seen = self._idle_turns = 0
        self._ended = -math.inf
        self._is_closed = False
        self._step: Future[None] | None = None

    def submit(self, work: Work, *, run_id: str | None = None) -> Any:
        """Do `work` with the next group; the future is done when that is durable."""
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
        """Whether the one call that waits shares its commit with nobody, whatever it waits for."""
        is_free = not self._is_due and self._step is None and len(self._waiting) == 1
        was_alone = self._patience == 0
        return is_free and was_alone and self._loop.time() - self._ended > IDLE_SECONDS

    def _begin_soon(self, pause: float = 0.0) -> None:
        """Begin the next group when those who are on their way have joined it."""
        if self._is_due or self._step is not None or not self._waiting:
            return
        self._is_due = True
        self._seen, self._idle_turns = 0, 0
        if pause:
            self._loop.call_later(pause, self._begin)
        else:
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Begin once the loop has turned some times without a newcomer.

        gRPC takes calls up one by one, so without patience a group of 64 callers had 1.2 calls. One
        who is alone, as after a group of one, waits for nobody.
        """
        newcomers = len(self._waiting) - self._seen
        self._idle_turns = 0 if newcomers else self._idle_turns + 1
        self._seen = len(self._waiting)
        if self._idle_turns < self._patience and self._seen < GROUP_LIMIT:
            self._loop.call_soon(self._gather)
        else:
            self._begin()

    def _begin(self, *, in_loop: bool = False) -> None:
        """Run a group and commit it: in the loop's thread, or where that would hold others up."""
        self._is_due = False
        group = self._next_group()
        if not group:
            self._begin_soon()
        elif self._writer.is_of_server:
            self._group = group
            self._patience = 0 if len(group) == 1 else PATIENCE
            self._wait_for(partial(_run_and_commit, self._writer, group))
        elif self._run(group):
            self._patience = 0 if len(group) == 1 else PATIENCE
            self._commit(in_loop=in_loop)

    def _commit(self, *, in_loop: bool) -> None:
        if self._writer.commit_syncs and not in_loop:
            self._wait_for(self._writer.commit)
            return
        # Another thread would begin later than this ends, as a rule.
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
        """Take a step of the writer in the other thread, then answer the group and go on."""
        self._step = self._thread.submit(step)
        self._step.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._end_and_go_on))

    def _next_group(self) -> list[Job]:
        """Take the calls that share the next transaction, if there are any."""
        group = [job for job in self._waiting[:GROUP_LIMIT] if not job.future.done()]
        del self._waiting[:GROUP_LIMIT]
        return group

    def _run(self, group: list[Job]) -> bool:
        """Run a group in the loop's thread; return whether it is to be committed."""
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
            # Of a checkpoint, nobody waits; it comes again, and a commit tells of a broken disk.
            if not isinstance(error, Unavailable):  # whose callers, and log, were told
                log.warning("the store: %s", error)
            fail(self._group, error)
        elif self._group:
            self._writer.settle()
        self._group = []
        self._ended = self._loop.time()

    def close(self) -> None:
        """Commit what was submitted, and take no more."""
        self._is_closed = True
        self._thread.shutdown(wait=True)
        if self._step is not None:
            self._end_step()
        while (group := self._next_group()) and self._run(group):
            self._commit_group()
        fail(self._waiting, Unavailable(_CLOSED))
        self._writer.close()
