"""Trains a study's children through the trainer services, and keeps each result as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import cycle
from typing import Any

from agent_service.domain.errors import AgentError, NotFound
from trainer_service.client import TrainerClient
from trainer_service.runs.run import (
    ChunkTrained,
    Event,
    Finished,
    Planned,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.study.methods.plan import Child, Key
from trainer_service.study.pbt import PopulationFailed
from trainer_service.study.results.provenance import commit, versions
from trainer_service.study.results.results import Result, ResultsFolder
from trainer_service.study.results.trace import make_trace
from trainer_service.study.run.progress import StudyProgress
from trainer_service.v1 import trainer_pb2 as pb

WINDOW = 64
"""Children of a study that wait or train at a trainer service at once: enough to be stacked.

One that trains more at once has so many.
"""
SIGNAL_SECONDS = 0.5
"""How long Ctrl-C or SIGTERM may wait for the main thread, which waits for others."""


class RunFailed(AgentError):
    """A run of the study failed; the message has its id and cause."""


class StudyStopped(AgentError):
    """The study was asked to stop before this run; the same command goes on."""


class Children:
    """Trains children, many at once; thread-safe. A context manager, which stops what trains."""

    def __init__(
        self, folder: ResultsFolder, trainers: Sequence[TrainerClient], progress: StudyProgress
    ) -> None:
        """Take what is finished from the folder; the clients stay the caller's."""
        self._folder = folder
        self._progress = progress
        self._lock = threading.Lock()
        self._is_stopping = False
        self._running: dict[str, TrainerClient] = {}
        self._done = {result.key: result for result in folder.results()}
        self._all_trainers = trainers
        self._trainers = cycle(trainers)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _threads(self) -> ThreadPoolExecutor:
        """Return the threads that wait for runs; the services' queues limit how many train.

        Only where something is to be trained: what is finished is shown without any service.
        """
        with self._lock:
            if self._pool is None:
                devices = [trainer.device() for trainer in self._all_trainers]
                room = sum(max(WINDOW, device.parallel * device.together) for device in devices)
                self._pool = ThreadPoolExecutor(room, thread_name_prefix="child")
            return self._pool

    def results(self) -> list[Result]:
        """Return all results that are there."""
        with self._lock:
            return list(self._done.values())

    def finished(self, keys: Sequence[Key]) -> list[Result]:
        """Return those results of `keys` that are there."""
        with self._lock:
            return [self._done[key] for key in keys if key in self._done]

    def train(self, children: Sequence[Child], *, policy: str = "") -> list[Result]:
        """Train those that are not finished yet, at once; return all results, in order.

        `policy` is the SHA-256 of the frozen policy's file that decides.

        Raises:
            RunFailed: a run failed, or was cancelled by somebody else.
            StudyStopped: `stop` was called.
        """
        missing = []
        for child in children:
            done = self.finished([child.key])
            if done:
                self._progress.finished(child.key, done[0].finished)
            else:
                missing.append(child)
        if not missing:
            return self.finished([child.key for child in children])
        submit = self._threads().submit
        futures = [submit(self._train_one, child, policy) for child in missing]
        wait_for_all(futures)
        return self.finished([child.key for child in children])

    def each(self, train: Callable[[Key, StudyPlace], None], keys: Sequence[Key]) -> None:
        """Train what is more than a run for each key, at once, each at one trainer service.

        Raises:
            RunFailed: a run failed, or was cancelled by somebody else.
            StudyStopped: `stop` was called.
        """
        if not keys:
            return
        submit = self._threads().submit
        futures = [submit(self._at_a_place, train, key) for key in keys]
        wait_for_all(futures)

    def _at_a_place(self, train: Callable[[Key, StudyPlace], None], key: Key) -> None:
        with self._lock:
            trainer = next(self._trainers)
        try:
            train(key, StudyPlace(self, trainer))
        except PopulationFailed as error:
            if self._is_stopping:
                raise StudyStopped(f"{key.method} of seed {key.index} stops: {error}") from None
            raise RunFailed(str(error)) from None

    def add_weights(self, method: str, data: bytes) -> None:
        """Keep the weights of a method's judged child of seed 0."""
        self._folder.add_weights(method, data)

    def stop(self) -> None:
        """Submit nothing more, and cancel what waits or trains."""
        # Before the lock, so that those who wait for it to submit give up instead.
        self._is_stopping = True
        with self._lock:
            running = dict(self._running)
        for run_id, trainer in running.items():
            trainer.cancel(run_id)

    def _train_one(self, child: Child, policy: str) -> None:
        attempt, trainer = self._submit(child)
        chunks, finished = self._watch(child, trainer, attempt)
        if child.spec.keep:
            # Before its result: what is finished is not asked for again.
            self._folder.add_weights(child.key.method, trainer.weights(attempt))
            trainer.discard(attempt)
        self.add(child.key, attempt, child.spec, finished, chunks, policy=policy)
        with self._lock:
            del self._running[attempt]

    def add(
        self,
        key: Key,
        run_id: str,
        spec: RunSpec,
        finished: Finished,
        chunks: Sequence[ChunkTrained],
        *,
        policy: str = "",
    ) -> None:
        """Keep a finished run as the result of a child."""
        result = Result(
            key=key,
            run_id=run_id,
            spec=spec,
            finished=finished,
            trace=make_trace(chunks),
            policy=policy,
            versions=versions(),
            commit=commit(),
            ended_at=time.time(),
        )
        with self._lock:
            self._done[key] = self._folder.add(result)
        self._progress.finished(key, finished)

    def _submit(self, child: Child) -> tuple[str, TrainerClient]:
        """Submit a child to the next service; return the id of the attempt, and where it is."""
        with self._lock:
            if self._is_stopping:
                raise StudyStopped(f"run {child.run_id} was not submitted: the study stops")
            trainer = next(self._trainers)
            attempt = submit(trainer, child.run_id, child.spec)
            self._running[attempt] = trainer
        return attempt, trainer

    def _watch(
        self, child: Child, trainer: TrainerClient, attempt: str
    ) -> tuple[list[ChunkTrained], Finished]:
        """Follow a run to its end; raises RunFailed."""
        chunks: list[ChunkTrained] = []
        planned, result = 1, None
        for event in trainer.watch(attempt):
            match event.what:
                case Planned(chunks=count):
                    planned = count
                case ChunkTrained() as trained:
                    chunks.append(trained)
                    self._progress.trained(child.key, trained, planned)
                case Finished() as finished:
                    result = finished
                case StateChanged(state=RunState.FAILED | RunState.CANCELLED as state, cause=cause):
                    if self._is_stopping:
                        raise StudyStopped(f"run {attempt} was cancelled: the study stops")
                    raise RunFailed(f"run {attempt}: {state} {cause}".rstrip())
        if result is None:
            raise RunFailed(f"run {attempt} ended without a result")
        return chunks, result


class StudyPlace:
    """One trainer service as it is used by what is more than a run: a population."""

    def __init__(self, children: Children, trainer: TrainerClient) -> None:
        """Train through `trainer`, until `children` stop."""
        self._children = children
        self._trainer = trainer

    def was_lost(self, run_id: str) -> bool:
        """Whether a run is there that failed or was cancelled."""
        return _was_lost(self._trainer, run_id)

    def submit(self, run_id: str, spec: RunSpec) -> None:
        """Queue a run; the same again changes nothing. Raises StudyStopped."""
        with self._children._lock:
            if self._children._is_stopping:
                raise StudyStopped(f"run {run_id} was not submitted: the study stops")
            self._trainer.submit(run_id, spec)
            self._children._running[run_id] = self._trainer

    def watch(self, run_id: str) -> Iterator[Event]:
        """Replay a run's events, and follow it to its end."""
        yield from self._trainer.watch(run_id)
        with self._children._lock:
            self._children._running.pop(run_id, None)

    def trained(self, key: Key, trained: ChunkTrained, *, planned: int) -> None:
        """Show a chunk."""
        self._children._progress.trained(key, trained, planned)

    def weights(self, run_id: str) -> bytes:
        """Return the weights of a run that was to keep its checkpoint."""
        return self._trainer.weights(run_id)

    def discard(self, run_id: str) -> None:
        """Remove the checkpoint that a run kept."""
        self._trainer.discard(run_id)


def wait_for_all(futures: Iterable[Future[Any]]) -> None:
    """Wait until all are done, or one has failed; raises what that failed with."""
    waiting = set(futures)
    while waiting:
        # In turns: a signal that comes just before the thread sleeps is noticed when it wakes.
        done, waiting = wait(waiting, SIGNAL_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()


def submit(trainer: TrainerClient, run_id: str, spec: RunSpec) -> str:
    """Submit a run, under a new id if earlier attempts were lost; return the id."""
    number, attempt = 1, run_id
    while _was_lost(trainer, attempt):
        number += 1
        attempt = f"{run_id}-try{number}"
    trainer.submit(attempt, spec)
    return attempt


def _was_lost(trainer: TrainerClient, run_id: str) -> bool:
    try:
        state = trainer.get(run_id).state
    except NotFound:
        return False
    return state in (pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED)
