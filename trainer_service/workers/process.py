"""The process that trains runs together: chunk by chunk, until each of them has left."""

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
from agent_service.lifeline import end_with_parent
from agent_service.serving.logs import start_logging
from agent_service.serving.tracing import trace_clients, tracing
from trainer_service.config import TrainerConfig
from trainer_service.run import Run
from trainer_service.training.checkpoint import Pace
from trainer_service.training.datasets import Images, load_images
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.lockstep import Lockstep
from trainer_service.workers.link import CANCEL, HAND_BACK, Teller
from trainer_service.workers.member import Cancelled, HandedBack, Member, StackFailed, Workplace
from trainer_service.workers.steering import ATTEMPT_SECONDS

log = logging.getLogger(__name__)

Cancels = ctypes.Array[ctypes.c_byte]
"""Shared with the service, which marks the runs that are to end."""


class _Signals:
    """Listens to what the service asks.

    A run that trains alone ends where it stands: `Cancelled` is raised there, once. An exception
    that a signal raises is lost where Python cannot pass it on, as while an object is finalized. So
    the mark stays, and is asked for before each chunk. Runs that train together end at a chunk's
    end, since one of them cannot leave a step.
    """

    def __init__(self, cancels: Cancels) -> None:
        """Listen from now on."""
        self._cancels = cancels
        self._has_raised = False
        self._is_handed_back = False
        signal.signal(CANCEL, self._cancel)
        signal.signal(HAND_BACK, self._hand_back)

    def _cancel(self, _number: int, _frame: object) -> None:
        if len(self._cancels) == 1 and not self._has_raised:
            self._has_raised = True
            raise Cancelled

    def _hand_back(self, _number: int, _frame: object) -> None:
        self._is_handed_back = True

    def check(self, place: int) -> None:
        """Raise what the service asked of a run; only where a checkpoint may be made."""
        if self._cancels[place]:
            raise Cancelled
        if self._is_handed_back:
            raise HandedBack


def train_runs(
    runs: Sequence[Run],
    parents: Mapping[str, Run],
    config: TrainerConfig,
    pipes: Sequence[Connection],
    cancels: Cancels,
) -> None:
    """Train runs, as the main function of their process.

    Args:
        runs: one, or several whose children can be stacked.
        parents: of those that go on from another run, by their id.
        config: the service's.
        pipes: one a run, for all that happens in it.
        cancels: one mark a run.
    """
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
            # Those of all: runs that train together have one data set.
            return load_images(runs[0].spec.training, config.data, Memory(config.data_memory))

        workplace = Workplace(
            config=config,
            agent=agent,
            images=images,
            pace=Pace(config.checkpoint_seconds),
            together=len(runs),
        )
        signals = _Signals(cancels)
        workplace.members.extend(
            Member(
                run,
                Teller(pipe),
                workplace,
                parent=parents.get(run.id),
                check=partial(signals.check, place),
            )
            for place, (run, pipe) in enumerate(zip(runs, pipes, strict=True))
        )
        _train(workplace.members)


def _client(config: TrainerConfig) -> AgentClient:
    trace_clients(config.serving.traces)
    access = config.agent_access
    return AgentClient(
        config.agent, budget_seconds=ATTEMPT_SECONDS, tls=access.tls, token=access.token
    )


def _train(members: list[Member]) -> None:
    """Train all members until each has left the list."""
    lockstep = Lockstep()
    while members:
        try:
            for member in members:
                member.prepare()
            members[:] = [member for member in members if not member.has_left]
            _train_chunk(_least_trained(members), lockstep)
        except Cancelled:
            continue  # raised outside of the run that it is for, which is marked still


def _least_trained(members: Sequence[Member]) -> Sequence[Member]:
    """Return those that have trained least: the others wait until these have caught up."""
    fewest = min((member.training.trained_chunks for member in members), default=0)
    return [member for member in members if member.training.trained_chunks == fewest]


def _train_chunk(members: Sequence[Member], lockstep: Lockstep) -> None:
    if not members:
        return
    try:
        results = lockstep.train_chunk(
            [member.training for member in members], [member.values for member in members]
        )
    except BaseException as error:
        for member in members:
            member.fail(_failure(error, len(members)))
        return
    # Each takes its result before any tells it: while one waits for the agent, others may leave.
    for member, result in zip(members, results, strict=True):
        member.take(result)
    for member in members:
        member.tell()


def _failure(error: BaseException, children: int) -> BaseException:
    """Return what an error means to each of so many children, which one of them may have caused."""
    if children == 1 or not isinstance(error, Exception):
        return error
    log.error("the chunk of %d stacked children failed", children, exc_info=error)
    return StackFailed(f"{children} stacked children: {type(error).__name__}: {error}")
