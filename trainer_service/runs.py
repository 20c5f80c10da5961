"""The queue: runs wait, train in processes of their own, so many at once, and end."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol

from agent_service.domain.errors import AlreadyExists, NotFound, Unavailable, invalid
from agent_service.domain.runs import RUN_ID
from trainer_service.process import Place, train_run
from trainer_service.run import Run, RunSpec, RunState, StateChanged, What
from trainer_service.store import RunStore

log = logging.getLogger(__name__)

PRELOAD = ["trainer_service.process"]
"""What processes have imported when they start: torch alone takes seconds."""


class Observer(Protocol):
    """Who is told of what happens: the metrics."""

    def happened(self, run_id: str, what: What) -> None:
        """Something happened in a run, and is stored."""
        ...


class Runs:
    """Runs of one device. Thread-safe; close it, which ends the processes."""

    def __init__(self, store: RunStore, place: Place, *, parallel: int, observer: Observer) -> None:
        """Take over the store: what waited goes on waiting, what trained has failed.

        Args:
            store: of this service alone; stays the caller's.
            place: where runs train.
            parallel: runs at once.
            observer: told of all that happens.
        """
        self._store = store
        self._place = place
        self._observer = observer
        self._changing = threading.Lock()
        self._processes: dict[str, BaseProcess] = {}
        self._is_closed = False
        # The server process imports torch once; each run is forked from it.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="run")
        self._take_over()

    def _take_over(self) -> None:
        for run in self._each(RunState.RUNNING):
            cause = "the trainer service ended while it trained; submit it anew, as another run"
            self._happened(run.id, StateChanged(state=RunState.FAILED, cause=cause))
        for run in self._each(RunState.QUEUED):
            self._pool.submit(self._attend, run.id, run.spec)

    def _each(self, state: RunState) -> list[Run]:
        return list(self._store.list(state=state, after=0, limit=1_000_000))

    def submit(self, run_id: str, spec: RunSpec) -> Run:
        """Queue a run; the same id with the same spec again answers the one that is there.

        Raises:
            InvalidArgument: the id's form is wrong.
            AlreadyExists: the id has another spec.
        """
        if not RUN_ID.fullmatch(run_id):
            raise invalid("run_id", f"{run_id!r} does not match {RUN_ID.pattern}")
        with self._changing:
            if self._is_closed:
                raise Unavailable("the service drains; submit again when it is back")
            existing = self._store.find(run_id)
            if existing is not None:
                if existing.spec != spec:
                    raise AlreadyExists(f"run {run_id!r} has another spec; choose another id")
                return existing
            run = self._store.add(run_id, spec)
            self._pool.submit(self._attend, run_id, spec)
        return run

    def cancel(self, run_id: str) -> Run:
        """End a run that waits or trains; raises NotFound."""
        with self._changing:
            run = self._found(run_id)
            process = self._processes.get(run_id)
            if process is not None:
                process.terminate()
            elif run.state is RunState.QUEUED:
                self._happened(run_id, StateChanged(state=RunState.CANCELLED))
        return self._found(run_id)

    def get(self, run_id: str) -> Run:
        """Return a run; raises NotFound."""
        return self._found(run_id)

    def _found(self, run_id: str) -> Run:
        run = self._store.find(run_id)
        if run is None:
            raise NotFound(f"no run {run_id!r}; submit it first")
        return run

    def close(self) -> None:
        """Start nothing more, cancel what trains, and wait for it to end."""
        with self._changing:
            self._is_closed = True
            for process in self._processes.values():
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _attend(self, run_id: str, spec: RunSpec) -> None:
        """See one run through, from the queue to its end."""
        with self._changing:
            if self._is_closed or self._found(run_id).state is not RunState.QUEUED:
                return
            ours, theirs = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=train_run, args=(run_id, spec, self._place, theirs), name=run_id
            )
            process.start()
            theirs.close()
            self._processes[run_id] = process
            self._happened(run_id, StateChanged(state=RunState.RUNNING))
        last = self._pass_on(run_id, ours)
        process.join()
        with self._changing:
            del self._processes[run_id]
            if not (isinstance(last, StateChanged) and last.state.is_final):
                self._happened(run_id, _sudden_end(process.exitcode))
        process.close()

    def _pass_on(self, run_id: str, events: Connection) -> What | None:
        """Store what the process tells until it ends; return the last of it."""
        last: What | None = None
        with events:
            while True:
                try:
                    last = events.recv()
                except EOFError:
                    return last
                assert last is not None
                self._happened(run_id, last)

    def _happened(self, run_id: str, what: What) -> None:
        self._store.append(run_id, what)
        self._observer.happened(run_id, what)
        if isinstance(what, StateChanged):
            log.info("run %s: %s %s", run_id, what.state, what.cause)


def _sudden_end(exit_code: int | None) -> StateChanged:
    """Return what became of a run whose process told no end."""
    if exit_code == -signal.SIGTERM:
        # Cancelled before it could listen to that signal.
        return StateChanged(state=RunState.CANCELLED)
    cause = f"its process ended without a word, exit code {exit_code}"
    return StateChanged(state=RunState.FAILED, cause=cause)
