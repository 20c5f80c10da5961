"""The process that trains one child: chunk by chunk, asks who decides, tells what happens."""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import torch

from agent_service.client import AgentClient
from agent_service.client import Run as AgentRun
from agent_service.domain.errors import AgentError
from agent_service.domain.runs import Outcome
from agent_service.lifeline import end_with_parent
from trainer_service.run import (
    ChunkTrained,
    Finished,
    Planned,
    RunSpec,
    RunState,
    StateChanged,
    What,
)
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import load_images
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.loop import ChildTraining, Diverged, describe_device
from trainer_service.training.spec import fixed_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs train."""

    agent: str
    """HOST:PORT of the agent service."""
    device: str
    """As torch names it: `cpu`, `cuda:0`."""
    data: Path
    """The data folder."""
    data_memory: Memory = Memory.AUTO
    """Where images are held."""
    threads: int
    """CPU threads of a run."""


class _Cancelled(BaseException):
    """The service asked this process to end; no `Exception`, so that nothing takes it for one."""


class _Cancellation:
    """Listens to SIGTERM: raises `_Cancelled` where the run stands, once.

    An exception that a signal raises is lost where Python cannot pass it on, as while an object is
    finalized. So it is remembered, and the training asks before each chunk.
    """

    def __init__(self) -> None:
        """Listen from now on."""
        self._is_asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        if not self._is_asked:
            self._is_asked = True
            raise _Cancelled

    def check(self) -> None:
        """Raise `_Cancelled` if the service asked for it."""
        if self._is_asked:
            raise _Cancelled


class Steering(Protocol):
    """Who decides the values of the next chunk."""

    values: Mapping[str, float]
    """What the next chunk runs under."""
    policy_version: int
    """That decided them; 0 without a policy."""

    def report(self, chunk: Chunk) -> None:
        """Tell a chunk, and take the values for the next one."""
        ...

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Tell the end."""
        ...


class FixedSteering:
    """The same values for the whole run."""

    policy_version = 0

    def __init__(self, values: Mapping[str, float]) -> None:
        """Keep the values."""
        self.values = values

    def report(self, chunk: Chunk) -> None:
        """Change nothing."""

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """Tell nobody."""


class AgentSteering:
    """The agent service decides."""

    def __init__(self, run: AgentRun) -> None:
        """Take a run that was started there."""
        self._run = run
        self._take_action()

    def _take_action(self) -> None:
        self.values: Mapping[str, float] = self._run.hyperparameters
        self.policy_version = int(self._run.action.policy_version)

    def report(self, chunk: Chunk) -> None:
        """See the protocol."""
        self._run.report_chunk(
            chunk.losses,
            training_score=chunk.training_score,
            validation_score=chunk.validation_score,
        )
        self._take_action()

    def finish(self, outcome: Outcome, score: float | None) -> None:
        """See the protocol."""
        self._run.finish(outcome, final_score=score)


def train_run(run_id: str, spec: RunSpec, place: Place, events: Connection) -> None:
    """Train a run, as the main function of its process; tells all that happens to `events`."""
    end_with_parent()
    # Ctrl-C reaches the whole group; what it means is the service's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    # On standard error, which is the service's.
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s run {run_id} %(message)s")
    try:
        cancellation = _Cancellation()
        with AgentClient(place.agent) as agent:
            _train(agent, run_id, spec, place, events, cancellation)
    except _Cancelled:
        _send(events, StateChanged(state=RunState.CANCELLED))
    except Exception as error:
        if not isinstance(error, AgentError | OSError):
            traceback.print_exc()  # a fault of ours, or of torch: the log has the place
        cause = f"{type(error).__name__}: {error}"
        _send(events, StateChanged(state=RunState.FAILED, cause=cause))
    else:
        _send(events, StateChanged(state=RunState.SUCCEEDED))


def _steering(agent: AgentClient, run_id: str, spec: RunSpec, *, planned_chunks: int) -> Steering:
    if not spec.controller:
        return FixedSteering(fixed_values(spec.training))
    labels = {"method": spec.training.method.value, "seed": str(spec.training.seed)}
    run = agent.run(
        spec.controller,
        run_id=run_id,
        mode=spec.mode,
        labels=labels,
        planned_chunks=planned_chunks,
    )
    return AgentSteering(run)


def _train(
    agent: AgentClient,
    run_id: str,
    spec: RunSpec,
    place: Place,
    events: Connection,
    cancellation: _Cancellation,
) -> None:
    device = torch.device(place.device)
    # First, since the agent is told how long the run will be.
    images = load_images(spec.training, place.data, place.data_memory)
    training = ChildTraining(spec.training, images, device)
    steering = _steering(agent, run_id, spec, planned_chunks=training.chunks)
    try:
        started = time.perf_counter()
        _send(events, Planned(chunks=training.chunks))
        diverged = _train_chunks(training, steering, events, cancellation)
        scores = training.finish()
    except _Cancelled:
        steering.finish(Outcome.CANCELLED, None)
        raise
    except BaseException:
        steering.finish(Outcome.TRUNCATED, None)
        raise
    outcome = Outcome.DIVERGED if diverged else Outcome.TERMINATED
    steering.finish(outcome, scores.validation_score_best)
    seconds = time.perf_counter() - started
    words = describe_device(device)
    _send(events, Finished(scores=scores, diverged=diverged, seconds=seconds, device=words))


def _train_chunks(
    training: ChildTraining, steering: Steering, events: Connection, cancellation: _Cancellation
) -> bool:
    """Train all chunks; return whether the training diverged."""
    for _ in range(training.chunks):
        cancellation.check()
        version = steering.policy_version
        try:
            chunk = training.train_chunk(steering.values)
        except Diverged:
            return True
        before = time.perf_counter()
        steering.report(chunk)
        seconds = time.perf_counter() - before
        _send(events, ChunkTrained(chunk=chunk, policy_version=version, agent_seconds=seconds))
    return False


def _send(events: Connection, what: What) -> None:
    try:
        events.send(what)
    except BrokenPipeError:
        # The service is gone, and with it the reason to go on.
        os._exit(1)
