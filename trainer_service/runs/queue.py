"""The queue: runs wait, train in processes, alone or stacked with others, and end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from agent_service.domain.checks import check_name, differences, quoted
from agent_service.domain.errors import (
    AlreadyExists,
    NotFound,
    ResourceExhausted,
    Unavailable,
    within,
)
from agent_service.domain.hyperparameters import LONGEST_NAME, NAME
from agent_service.domain.runs import LONGEST_RUN_ID, RUN_ID
from trainer_service.config import TrainerConfig
from trainer_service.run import Run, RunSpec, RunState, StateChanged, What
from trainer_service.runs.agent_lookup import AgentLookup
from trainer_service.runs.kept import Kept
from trainer_service.runs.store import RunStore
from trainer_service.training.final import Which
from trainer_service.training.folder import open_folder
from trainer_service.training.spec import is_stackable
from trainer_service.workers.executor import Executor, Process
from trainer_service.workers.supervisor import supervise

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_PAUSE = 1.0
"""Seconds between two tries to store what happened, where the disk is full."""
GATHER_SECONDS = 1.0
"""How long a new run waits for others that can be trained together with it."""
STOPPED = "the trainer service stopped; the run goes on when that is back"
_ALL = 1_000_000
"""More runs than there are."""
KILLED = "the trainer service was killed while it trained; it goes on from its last checkpoint"


class Observer(Protocol):
    """Who is told of what happens: the metrics."""

    def happened(self, run_id: str, what: What) -> None:
        """Something happened in a run, and is stored."""
        ...


class Runs:
    """Runs of one device. Thread-safe; close it, which ends the processes."""

    def __init__(
        self,
        store: RunStore,
        config: TrainerConfig,
        executor: Executor,
        *,
        observers: Sequence[Observer],
    ) -> None:
        """Take over the store: what waited goes on waiting, and so does what trained.

        Args:
            store: of this service alone; stays the caller's.
            config: how many processes at once, and how many runs in each.
            executor: starts them; stays the caller's.
            observers: told of all that happens.
        """
        self._store = store
        self._config = config
        self._observers = observers
        self._agent = AgentLookup(config)
        self._kept = Kept(store, open_folder(config.checkpoints))
        self._changing = threading.Lock()
        self._executor = executor
        self._processes: dict[str, Process] = {}
        """By run: several that train together have one."""
        self._cancelled: set[str] = set()
        """Of runs that train, those that were asked to end."""
        self._fruitless: dict[str, int] = {}
        """Starts alone that brought a run no new chunk, in a row; of runs that got nowhere last."""
        self._is_closed = False
        self._pool = ThreadPoolExecutor(config.parallel, thread_name_prefix="run")
        self._take_over()

    def _take_over(self) -> None:
        for run in self._each(RunState.RUNNING):
            self._record(run.id, StateChanged(state=RunState.QUEUED, cause=KILLED))
        self._kept.sweep()
        for _ in self._each(RunState.QUEUED):
            self._queue()

    def _each(self, state: RunState, limit: int = _ALL) -> Sequence[Run]:
        """Return the runs in a state, in the order of their submission."""
        return self._store.list(state=state, after=0, limit=limit)

    def _queue(self) -> None:
        """Look for what waits, once more."""
        self._pool.submit(self._attend).add_done_callback(_log_fault)

    def submit(self, run_id: str, spec: RunSpec) -> Run:
        """Queue a run; the same id with the same spec again answers the one that is there.

        Raises:
            InvalidArgument: the id's form is wrong, the agent has no such controller, or the run
                cannot go on from its parent.
            AlreadyExists: the id has another spec.
            NotFound: there is no parent of this id.
            FailedPrecondition: the parent has no checkpoint.
            ResourceExhausted: so many runs wait or train already.
            Unavailable: it cannot be stored, or the service drains.
        """
        check_name(run_id, RUN_ID, longest=LONGEST_RUN_ID, field="run_id")
        # Before the lock, since it is a call; who submits again need not have the controller still.
        if spec.controller and self._store.find(run_id) is None:
            with within("spec."):
                check_name(spec.controller, NAME, longest=LONGEST_NAME, field="controller")
                self._agent.check_controller(spec.controller)
        with self._changing:
            if self._is_closed:
                raise Unavailable("the service drains; submit again when it is back")
            existing = self._store.find(run_id)
            if existing is not None:
                if existing.spec != spec:
                    other = differences(existing.spec, spec)
                    raise AlreadyExists(
                        f"run {run_id!r} has another spec: {other}; choose another id"
                    )
                return existing
            self._check_room()
            run = self._store.add(run_id, spec, trained_chunks=self._kept.beginning(spec))
            self._queue()
        return run

    def _check_room(self) -> None:
        counts = self._store.count()
        if counts[RunState.QUEUED] + counts[RunState.RUNNING] >= self._config.max_runs:
            raise ResourceExhausted(
                f"at most {self._config.max_runs} runs (--max-runs), and they wait or train; "
                "submit it again when one has ended",
                limit="runs",
            )

    def cancel(self, run_id: str) -> Run:
        """End a run that waits or trains.

        Raises:
            NotFound: there is none of this id.
            Unavailable: it cannot be stored.
        """
        with self._changing:
            run = self._found(run_id)
            process = self._processes.get(run_id)
            if process is not None:
                self._cancelled.add(run_id)
                process.cancel(run_id)
            elif run.state is RunState.QUEUED:
                self._record(run_id, StateChanged(state=RunState.CANCELLED))
        return self._found(run_id)

    def get(self, run_id: str) -> Run:
        """Return a run; raises NotFound."""
        return self._found(run_id)

    def weights(self, run_id: str, which: Which) -> bytes:
        """Return the weights of a run that kept its checkpoint, as a file.

        Raises:
            NotFound: there is none of this id.
            FailedPrecondition: it has no checkpoint; the message says why.
            Unavailable: it cannot be read now.
        """
        return self._kept.weights(self._found(run_id), which)

    def discard(self, run_id: str) -> Run:
        """Remove the checkpoint that a run kept, if it is there still.

        Raises:
            NotFound: there is none of this id.
            FailedPrecondition: it has not ended.
        """
        with self._changing:
            run = self._found(run_id)
            self._kept.discard(run)
        return run

    def _found(self, run_id: str) -> Run:
        run = self._store.find(run_id)
        if run is None:
            raise NotFound(f"no run {quoted(run_id)}; submit it first")
        return run

    def close(self) -> None:
        """Start nothing more, hand back what trains, and wait for that.

        What has kept no checkpoint within the grace is killed, and goes on from an older one.
        """
        # Before the lock, so that who holds it and waits for room on the disk gives up.
        self._is_closed = True
        with self._changing:
            for process in set(self._processes.values()):
                process.preempt()
        impatient = threading.Timer(self._config.grace_seconds, self._kill_all)
        impatient.start()
        self._pool.shutdown(wait=True, cancel_futures=True)
        impatient.cancel()
        self._agent.close()

    def _kill_all(self) -> None:
        with self._changing:
            for run_id, process in self._processes.items():
                text = "run %s: its chunk did not end within the grace"
                log.warning(text, run_id, extra={"run": run_id})
                process.kill()

    def _attend(self) -> None:
        """See a process of those through that wait first; nothing where none waits."""
        self._gather()
        started = self._patiently(self._start)
        if started is None:
            return
        process, runs = started
        before = {run.id: run for run in runs}
        supervise(
            process,
            list(before),
            lambda run_id, what: self._patiently(lambda: self._record(run_id, what)),
            lambda run_id, end: self._patiently(
                lambda: self._settle(before[run_id], end, is_alone=len(runs) == 1)
            ),
            stall_seconds=self._config.stall_seconds,
        )

    def _gather(self) -> None:
        """Wait a moment for others where a new run could be trained with them."""
        if self._config.together > 1 and (waiting := self._each(RunState.QUEUED, 1)):
            age = time.time() - waiting[0].created_at
            time.sleep(min(max(GATHER_SECONDS - age, 0), GATHER_SECONDS))

    def _start(self) -> tuple[Process, Sequence[Run]] | None:
        """Start a process for what waits first; None where nothing waits, or may start."""
        with self._changing:
            runs = [] if self._is_closed else self._begun(self._next())
            if not runs:
                return None
            parents = {run.id: self._found(run.spec.parent) for run in runs if run.spec.parent}
            process = self._executor.start(runs, parents)
            self._processes.update({run.id: process for run in runs})
            return process, runs

    def _next(self) -> Sequence[Run]:
        """Return what waits first, and what may be trained together with it."""
        together = self._config.together
        waiting = self._each(RunState.QUEUED, 1 if together == 1 else _ALL)
        # Who got nowhere tries alone: it, or one of those that it was with, may be the cause.
        if not waiting or waiting[0].id in self._fruitless:
            return waiting[:1]
        first = waiting[0].spec.training
        stackable = [
            run
            for run in waiting[1:]
            if run.id not in self._fruitless and is_stackable(run.spec.training, first)
        ]
        return [waiting[0], *stackable][:together]

    def _begun(self, runs: Sequence[Run]) -> list[Run]:
        """Store that runs train, and return them; raises Unavailable where none can be stored."""
        begun: list[Run] = []
        for run in runs:
            try:
                self._record(run.id, StateChanged(state=RunState.RUNNING))
            except Unavailable:
                if not begun:
                    raise
                break  # the others go on waiting
            begun.append(run)
        return begun

    def _settle(self, before: Run, end: StateChanged, *, is_alone: bool) -> None:
        """Store where a run stands that has left its process, and forget the process.

        Args:
            before: the run as its process started.
            end: the state that it was left in.
            is_alone: whether no other run trained there; what failed may else not be its fault.
        """
        run_id = before.id
        with self._changing:
            # By the store's chunks: a process that only trains again what is known gets nowhere.
            has_grown = self._found(run_id).trained_chunks > before.trained_chunks
            fruitless = 0 if has_grown else self._fruitless.get(run_id, 0) + is_alone
            verdict = self._verdict(run_id, end, fruitless)
            self._record(run_id, verdict)
            del self._processes[run_id]
            self._cancelled.discard(run_id)
            if has_grown or verdict.state.is_final:
                self._fruitless.pop(run_id, None)
            else:
                self._fruitless[run_id] = fruitless
            if verdict.state is RunState.QUEUED and not self._is_closed:
                self._queue()

    def _verdict(self, run_id: str, end: StateChanged, fruitless: int) -> StateChanged:
        """Return where a run stands whose process left it so."""
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

    def _patiently(self, change: Callable[[], T]) -> T:
        """Make a change that stores something; again and again where the disk is full."""
        while True:
            try:
                return change()
            except Unavailable as error:
                log.error("%s", error)
                if self._is_closed:
                    raise
            time.sleep(STORE_PAUSE)

    def _record(self, run_id: str, what: What) -> None:
        """Store what happened, and tell it; raises Unavailable where it cannot be stored."""
        if not self._store.append(run_id, what):
            return  # it was told before
        for observer in self._observers:
            observer.happened(run_id, what)
        if isinstance(what, StateChanged):
            fields = {"run": run_id, "state": what.state.value}
            log.info("run %s: %s %s", run_id, what.state, what.cause, extra=fields)
            if what.state.is_final:
                self._kept.settle(self._found(run_id))


def _log_fault(future: Future[None]) -> None:
    """Log what ended the care for a run, which nobody else would see."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("a run is attended to no more", exc_info=error)
