"""The run queue: starts processes for waiting runs and stores how each run ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from agent_service.domain import errors
from agent_service.domain.checks import check_name, differences, quoted
from agent_service.domain.hyperparameters import LONGEST_NAME, NAME
from agent_service.domain.runs import LONGEST_RUN_ID, RUN_ID
from trainer_service.config import TrainerConfig
from trainer_service.runs.agent_lookup import AgentLookup
from trainer_service.runs.retention import Retention
from trainer_service.runs.run import EventContent, Run, RunSpec, RunState, StateChanged
from trainer_service.runs.store import RunStore
from trainer_service.training.chunk import Which
from trainer_service.training.folder import open_folder
from trainer_service.training.spec import is_stackable
from trainer_service.workers.executor import Executor, Process, supervise

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_RETRY_SECONDS = 1.0
"""Pause between attempts to store an event while the disk is full."""
GATHER_SECONDS = 1.0
"""How long a new run waits for others that can be stacked with it."""
STOPPED = "the trainer service stopped; the run resumes when the service restarts"
_ALL = 1_000_000
"""A limit above any number of runs."""
KILLED = "the trainer service was killed; the run resumes from its last checkpoint"


class Observer(Protocol):
    """Receives every stored event."""

    def observe(self, run_id: str, what: EventContent) -> None:
        """Handle an event of a run."""
        ...


class RunQueue:
    """The runs of one device. Thread-safe; closing it ends the processes."""

    def __init__(
        self,
        store: RunStore,
        config: TrainerConfig,
        executor: Executor,
        *,
        observers: Sequence[Observer],
    ) -> None:
        """Requeue the store's unfinished runs and start processes for them.

        The store is this service's alone; the caller closes it and the executor. Observers receive
        every stored event.
        """
        self._store = store
        self._config = config
        self._observers = observers
        self._agent = AgentLookup(config)
        self._retention = Retention(store, open_folder(config.checkpoints))
        self._changing = threading.Lock()
        self._executor = executor
        self._processes: dict[str, Process] = {}
        """By run id; stacked runs share one."""
        self._cancelled: set[str] = set()
        """Running runs that were cancelled."""
        self._fruitless: dict[str, int] = {}
        """Consecutive starts of a run, alone, that trained no new chunk."""
        self._is_closed = False
        self._pool = ThreadPoolExecutor(config.parallel, thread_name_prefix="run")
        self._requeue()

    def _requeue(self) -> None:
        for run in self._each(RunState.RUNNING):
            self._record(run.id, StateChanged(state=RunState.QUEUED, cause=KILLED))
        self._retention.sweep()
        for _ in self._each(RunState.QUEUED):
            self._queue()

    def _each(self, state: RunState, limit: int = _ALL) -> Sequence[Run]:
        """Return the runs in a state, in the order of submission."""
        return self._store.list(state=state, after=0, limit=limit)

    def _queue(self) -> None:
        """Schedule one more process for waiting runs."""
        self._pool.submit(self._train_next).add_done_callback(_log_error)

    def submit(self, run_id: str, spec: RunSpec) -> Run:
        """Queue a run; idempotent for the same id and spec.

        Raises:
            InvalidArgument: the id is malformed, the agent has no such controller, or the run
                cannot continue from its parent.
            AlreadyExists: the id has another spec.
            NotFound: there is no such parent.
            FailedPrecondition: the parent has no checkpoint.
            ResourceExhausted: max_runs runs wait or train already.
            Unavailable: the store cannot be written, or the service drains.
        """
        check_name(run_id, RUN_ID, longest=LONGEST_RUN_ID, field="run_id")
        # Outside the lock, since it is a call; a repeated submission needs no controller any more.
        if spec.controller and self._store.find(run_id) is None:
            with errors.within("spec."):
                check_name(spec.controller, NAME, longest=LONGEST_NAME, field="controller")
                self._agent.check_controller(spec.controller)
        with self._changing:
            if self._is_closed:
                raise errors.Unavailable("the service drains; submit again when it is back")
            existing = self._store.find(run_id)
            if existing is not None:
                if existing.spec != spec:
                    other = differences(existing.spec, spec)
                    raise errors.AlreadyExists(
                        f"run {run_id!r} has another spec: {other}; choose another id"
                    )
                return existing
            self._check_capacity()
            run = self._store.add(
                run_id, spec, trained_chunks=self._retention.inherited_chunks(spec)
            )
            self._queue()
        return run

    def _check_capacity(self) -> None:
        counts = self._store.count()
        if counts[RunState.QUEUED] + counts[RunState.RUNNING] >= self._config.max_runs:
            raise errors.ResourceExhausted(
                f"at most {self._config.max_runs} runs (--max-runs) may wait or train; "
                "submit again when one has ended",
                limit="runs",
            )

    def cancel(self, run_id: str) -> Run:
        """Cancel a run; no-op if it has ended.

        Raises:
            NotFound: there is no such run.
            Unavailable: the store cannot be written.
        """
        with self._changing:
            run = self.get(run_id)
            process = self._processes.get(run_id)
            if process is not None:
                self._cancelled.add(run_id)
                process.cancel(run_id)
            elif run.state is RunState.QUEUED:
                self._record(run_id, StateChanged(state=RunState.CANCELLED))
        return self.get(run_id)

    def weights(self, run_id: str, which: Which) -> bytes:
        """Return the weights of a run that kept its checkpoint, in the format of `child_file`.

        Raises:
            NotFound: there is no such run.
            FailedPrecondition: it has no checkpoint; the message says why.
            Unavailable: the checkpoints cannot be read.
        """
        return self._retention.weights(self.get(run_id), which)

    def discard(self, run_id: str) -> Run:
        """Remove a run's checkpoint; no-op if there is none.

        Raises:
            NotFound: there is no such run.
            FailedPrecondition: it has not ended, or an unfinished run continues from it.
        """
        with self._changing:
            run = self.get(run_id)
            self._retention.discard(run)
        return run

    def get(self, run_id: str) -> Run:
        """Return a run; raises NotFound."""
        run = self._store.find(run_id)
        if run is None:
            raise errors.NotFound(f"no run {quoted(run_id)}; submit it first")
        return run

    def close(self) -> None:
        """Stop starting processes, preempt the running ones, and wait for them.

        Processes that have not ended within `grace_seconds` are killed; their runs resume from an
        older checkpoint.
        """
        # Before the lock: a thread that holds it while it waits for disk space gives up.
        self._is_closed = True
        with self._changing:
            for process in set(self._processes.values()):
                process.preempt()
        killing = threading.Timer(self._config.grace_seconds, self._kill_all)
        killing.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        killing.cancel()
        self._agent.close()

    def _kill_all(self) -> None:
        with self._changing:
            for run_id, process in self._processes.items():
                text = "run %s is killed: its chunk did not end within --grace-seconds"
                log.warning(text, run_id, extra={"run": run_id})
                process.kill()

    def _train_next(self) -> None:
        """Start a process for the oldest queued runs and supervise it; no-op if none is queued."""
        if self._config.together > 1 and (waiting := self._each(RunState.QUEUED, 1)):
            # Others that can be stacked with it may follow in a moment.
            age = time.time() - waiting[0].created_at
            time.sleep(min(max(GATHER_SECONDS - age, 0), GATHER_SECONDS))
        started = self._with_retry(self._start)
        if started is None:
            return
        process, runs = started
        before = {run.id: run for run in runs}
        supervise(
            process,
            list(before),
            lambda run_id, what: self._with_retry(lambda: self._record(run_id, what)),
            lambda run_id, end: self._with_retry(
                lambda: self._store_end(before[run_id], end, is_alone=len(runs) == 1)
            ),
            stall_seconds=self._config.stall_seconds,
        )

    def _start(self) -> tuple[Process, Sequence[Run]] | None:
        """Start a process for the oldest queued runs; None if the queue is empty or closed."""
        with self._changing:
            runs = [] if self._is_closed else self._mark_running(self._next())
            if not runs:
                return None
            parents = {run.id: self.get(run.spec.parent) for run in runs if run.spec.parent}
            process = self._executor.start(runs, parents)
            self._processes.update({run.id: process for run in runs})
            return process, runs

    def _next(self) -> Sequence[Run]:
        """Return the oldest queued run, and those to stack with it."""
        together = self._config.together
        waiting = self._each(RunState.QUEUED, 1 if together == 1 else _ALL)
        # After a fruitless start a run trains alone: one stacked with it may be the cause.
        if not waiting or waiting[0].id in self._fruitless:
            return waiting[:1]
        first = waiting[0].spec.training
        stackable = [
            run
            for run in waiting[1:]
            if run.id not in self._fruitless and is_stackable(run.spec.training, first)
        ]
        return [waiting[0], *stackable][:together]

    def _mark_running(self, runs: Sequence[Run]) -> list[Run]:
        """Store that runs train; return those stored, or raise Unavailable if none was."""
        begun: list[Run] = []
        for run in runs:
            try:
                self._record(run.id, StateChanged(state=RunState.RUNNING))
            except errors.Unavailable:
                if not begun:
                    raise
                break  # the others stay queued
            begun.append(run)
        return begun

    def _store_end(self, before: Run, end: StateChanged, *, is_alone: bool) -> None:
        """Store the state of a run that left its process; stacked ones may fail for another."""
        run_id = before.id
        with self._changing:
            # By stored chunks: a process that only repeats known ones makes no progress.
            has_grown = self.get(run_id).trained_chunks > before.trained_chunks
            fruitless = 0 if has_grown else self._fruitless.get(run_id, 0) + is_alone
            after = self._state_after(run_id, end, fruitless)
            self._record(run_id, after)
            del self._processes[run_id]
            self._cancelled.discard(run_id)
            if has_grown or after.state.is_final:
                self._fruitless.pop(run_id, None)
            else:
                self._fruitless[run_id] = fruitless
            if after.state is RunState.QUEUED and not self._is_closed:
                self._queue()

    def _state_after(self, run_id: str, end: StateChanged, fruitless: int) -> StateChanged:
        """Return the state of a run that its process left in state `end`."""
        if end.state.is_final:
            return end
        if run_id in self._cancelled:
            return StateChanged(state=RunState.CANCELLED)
        if self._is_closed:
            return StateChanged(state=RunState.QUEUED, cause=STOPPED)
        cause = end.cause or "its process was asked to end"
        if fruitless > self._config.restarts:
            cause = f"{cause}; {fruitless} starts in a row brought no new chunk"
            return StateChanged(state=RunState.FAILED, cause=cause)
        return StateChanged(state=RunState.QUEUED, cause=f"{cause}; it starts again")

    def _with_retry(self, change: Callable[[], T]) -> T:
        """Return the result of a change of the store; retry while the disk is full."""
        while True:
            try:
                return change()
            except errors.Unavailable as error:
                log.error("%s", error)
                if self._is_closed:
                    raise
            time.sleep(STORE_RETRY_SECONDS)

    def _record(self, run_id: str, what: EventContent) -> None:
        """Store an event and notify the observers; raises Unavailable if it cannot be stored."""
        if not self._store.append(run_id, what):
            return  # stored before
        for observer in self._observers:
            observer.observe(run_id, what)
        if isinstance(what, StateChanged):
            fields = {"run": run_id, "state": what.state.value}
            log.info("run %s: %s %s", run_id, what.state, what.cause, extra=fields)
            if what.state.is_final:
                self._retention.clean_up(self.get(run_id))


def _log_error(future: Future[None]) -> None:
    """Log an exception of a pool thread, which nobody else would see."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("supervision of a process failed", exc_info=error)
