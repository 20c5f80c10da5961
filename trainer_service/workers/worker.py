"""The main function of a worker process: trains its runs chunk by chunk until all have left."""

from __future__ import annotations

import ctypes
import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing.connection import Connection

import torch

from agent_service.client import AgentClient
from agent_service.serving.logs import start_logging
from agent_service.serving.tracing import trace_clients, tracing
from agent_service.shutdown import end_with_parent
from trainer_service.config import TrainerConfig
from trainer_service.runs.run import Run
from trainer_service.training.checkpoint import Pace
from trainer_service.training.datasets import Images, load_images
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.stacked import Lockstep
from trainer_service.workers.pipe import CANCEL, PREEMPT, EventSender
from trainer_service.workers.run_trainer import (
    Cancelled,
    Preempted,
    RunTrainer,
    StackFailed,
    WorkerContext,
)
from trainer_service.workers.value_source import ATTEMPT_SECONDS

log = logging.getLogger(__name__)

Cancels = ctypes.Array[ctypes.c_byte]
"""Array shared with the service, which marks the runs to cancel."""


class _Signals:
    """Handles the service's signals.

    A run that trains alone is interrupted: its handler raises `Cancelled`, once. Python drops an
    exception raised by a signal handler in some places, as while an object is finalized, so the
    mark stays and is checked before each chunk. Stacked runs end at the end of a chunk, since one
    of them cannot leave in the middle of a step.
    """

    def __init__(self, cancels: Cancels) -> None:
        """Install the handlers."""
        self._cancels = cancels
        self._has_raised = False
        self._is_preempted = False
        signal.signal(CANCEL, self._cancel)
        signal.signal(PREEMPT, self._preempt)

    def _cancel(self, _number: int, _frame: object) -> None:
        if len(self._cancels) == 1 and not self._has_raised:
            self._has_raised = True
            raise Cancelled

    def _preempt(self, _number: int, _frame: object) -> None:
        self._is_preempted = True

    def check(self, place: int) -> None:
        """Raise Cancelled or Preempted if asked for; call only where a checkpoint can be saved."""
        if self._cancels[place]:
            raise Cancelled
        if self._is_preempted:
            raise Preempted


def train_runs(
    runs: Sequence[Run],
    parents: Mapping[str, Run],
    config: TrainerConfig,
    pipes: Sequence[Connection],
    cancels: Cancels,
) -> None:
    """Train runs, stacked if several, until all have left; each has a pipe and a mark."""
    end_with_parent()
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    start_logging("trainer", config.serving.log_format, run=f"{runs[0].id}{others}")
    torch.set_num_threads(config.threads)
    with ExitStack() as opened:

        @cache
        def agent() -> AgentClient:
            opened.enter_context(tracing("trainer", config.serving.traces))
            return opened.enter_context(_client(config))

        @cache
        def images() -> Images:
            # Stacked runs share one data set.
            return load_images(runs[0].spec.training, config.data, Memory(config.data_memory))

        context = WorkerContext(
            config=config,
            agent=agent,
            images=images,
            pace=Pace(config.checkpoint_seconds),
            together=len(runs),
        )
        signals = _Signals(cancels)
        context.trainers.extend(
            RunTrainer(
                run,
                EventSender(pipe),
                context,
                parent=parents.get(run.id),
                check=partial(signals.check, place),
            )
            for place, (run, pipe) in enumerate(zip(runs, pipes, strict=True))
        )
        _train(context.trainers)


def _client(config: TrainerConfig) -> AgentClient:
    trace_clients(config.serving.traces)
    access = config.agent_access
    return AgentClient(
        config.agent, budget_seconds=ATTEMPT_SECONDS, tls=access.tls, token=access.token
    )


def _train(trainers: list[RunTrainer]) -> None:
    """Train all runs; each is removed from the list when it leaves."""
    lockstep = Lockstep()
    while trainers:
        try:
            for trainer in trainers:
                trainer.prepare()
            trainers[:] = [trainer for trainer in trainers if not trainer.has_left]
            # Those with more chunks wait until these have caught up.
            fewest = min((one.training.trained_chunks for one in trainers), default=0)
            _train_chunk([t for t in trainers if t.training.trained_chunks == fewest], lockstep)
        except Cancelled:
            continue  # raised outside its run, which is still marked


def _train_chunk(trainers: Sequence[RunTrainer], lockstep: Lockstep) -> None:
    if not trainers:
        return
    try:
        results = lockstep.train_chunk(
            [trainer.training for trainer in trainers], [trainer.values for trainer in trainers]
        )
    except BaseException as error:
        for trainer in trainers:
            trainer.fail(_failure(error, len(trainers)))
        return
    # All accept first: while one waits for the agent as it publishes, others may leave.
    for trainer, result in zip(trainers, results, strict=True):
        trainer.accept(result)
    for trainer in trainers:
        trainer.publish()


def _failure(error: BaseException, children: int) -> BaseException:
    """Return the error to raise in each run; with stacked children, any may have caused it."""
    if children == 1 or not isinstance(error, Exception):
        return error
    log.error("the chunk of %d stacked children failed", children, exc_info=error)
    return StackFailed(f"{children} stacked children: {type(error).__name__}: {error}")
