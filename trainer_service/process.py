"""The process that trains one child: chunk by chunk, asks who decides, tells what happens."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from agent_service.client import AgentClient
from agent_service.connecting import Access
from agent_service.domain.errors import AgentError
from agent_service.domain.runs import Outcome
from agent_service.lifeline import end_with_parent
from agent_service.logs import LogFormat, start_logging
from agent_service.tracing import trace_clients, tracing
from trainer_service.keeper import Keeper
from trainer_service.link import CANCEL, HAND_BACK, Teller
from trainer_service.run import ChunkTrained, Finished, Planned, Run, RunState, StateChanged
from trainer_service.steering import ATTEMPT_SECONDS, Patience, Steering, make_steering
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import load_images
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.loop import ChildTraining, Diverged, describe_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs train."""

    agent: str
    """HOST:PORT of the agent service."""
    access: Access
    """How a run proves to the agent who it is."""
    agent_seconds: float
    """How long a run waits for an agent that is away before it fails."""
    device: str
    """As torch names it: `cpu`, `cuda:0`."""
    data: Path
    """The data folder."""
    data_memory: Memory = Memory.AUTO
    """Where images are held."""
    threads: int
    """CPU threads of a run."""
    checkpoints: Path
    """Folder of all runs' checkpoints."""
    checkpoint_seconds: float | None
    """Between two checkpoints of a run; see `Pace`."""
    log_format: LogFormat = LogFormat.TEXT
    """Of the lines on standard error."""
    traces: str | None = None
    """URL of a collector of traces."""


class _Cancelled(BaseException):
    """The service asked to end this run; no `Exception`, so that nothing takes it for one."""


class _HandedBack(BaseException):
    """The service asked for this run's checkpoint, to go on with it later."""


class _Signals:
    """Listens to what the service asks: raises `_Cancelled` where the run stands, once.

    An exception that a signal raises is lost where Python cannot pass it on, as while an object is
    finalized. So it is remembered, and the training asks before each chunk.
    """

    def __init__(self) -> None:
        """Listen from now on."""
        self._is_cancelled = False
        self._is_handed_back = False
        signal.signal(CANCEL, self._cancel)
        signal.signal(HAND_BACK, self._hand_back)

    def _cancel(self, _number: int, _frame: object) -> None:
        if not self._is_cancelled:
            self._is_cancelled = True
            raise _Cancelled

    def _hand_back(self, _number: int, _frame: object) -> None:
        self._is_handed_back = True

    def check(self) -> None:
        """Raise what the service asked for; only where a checkpoint may be made."""
        if self._is_cancelled:
            raise _Cancelled
        if self._is_handed_back:
            raise _HandedBack


_FINAL = (AgentError, OSError, MemoryError, torch.OutOfMemoryError)
"""Errors that another start would meet again; after others the run starts from its checkpoint."""


def train_run(run: Run, place: Place, pipe: Connection) -> None:
    """Train a run, as the main function of its process; tells all that happens through `pipe`."""
    end_with_parent()
    # Ctrl-C reaches the whole group; what it means is the service's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_logging("trainer", place.log_format, run=run.id)
    torch.set_num_threads(place.threads)
    teller = Teller(pipe)
    last = StateChanged(state=RunState.SUCCEEDED)
    try:
        signals = _Signals()
        with tracing("trainer", place.traces), _client(place) as agent:
            _train(agent, run, place, teller, signals)
    except _Cancelled:
        last = StateChanged(state=RunState.CANCELLED)
    except _HandedBack:
        last = StateChanged(state=RunState.QUEUED)
    except Exception as error:
        if not isinstance(error, AgentError | OSError):
            log.exception("a fault of ours, or of torch")
        state = RunState.FAILED if isinstance(error, _FINAL) else RunState.QUEUED
        last = StateChanged(state=state, cause=f"{type(error).__name__}: {error}")
    teller.tell_last(last)


def _client(place: Place) -> AgentClient:
    trace_clients(place.traces)
    access = place.access
    return AgentClient(
        place.agent, budget_seconds=ATTEMPT_SECONDS, tls=access.tls, token=access.token
    )


def _train(agent: AgentClient, run: Run, place: Place, teller: Teller, signals: _Signals) -> None:
    device = torch.device(place.device)
    # First, since the agent is told how long the run will be.
    images = load_images(run.spec.training, place.data, place.data_memory)
    training = ChildTraining(run.spec.training, images, device)
    keeper = Keeper(
        run,
        training,
        folder=place.checkpoints / run.id,
        interval=place.checkpoint_seconds,
        settle=teller.settle,
    )
    patience = Patience(
        place.agent_seconds, tell=lambda cause: _tell_cause(teller, cause), check=signals.check
    )
    chunks = training.chunks
    steering = make_steering(agent, run.id, run.spec, patience, planned_chunks=chunks)
    try:
        teller.tell(Planned(chunks=chunks))
        diverged = _Chunks(training, steering, keeper, teller, signals).train()
        finished = _finish(training, steering, diverged=diverged)
    except _Cancelled:
        steering.give_up(Outcome.CANCELLED)
        raise
    except _FINAL:
        steering.give_up(Outcome.TRUNCATED)
        raise
    words = describe_device(device)
    teller.tell(replace(finished, seconds=keeper.seconds, device=words))


def _finish(training: ChildTraining, steering: Steering, *, diverged: bool) -> Finished:
    """Judge the child and tell who decided; return the result, without time and device."""
    digest = training.weights_digest()
    scores = training.finish()
    outcome = Outcome.DIVERGED if diverged else Outcome.TERMINATED
    steering.finish(outcome, scores.validation_score_best)
    return Finished(scores=scores, diverged=diverged, seconds=0.0, device="", weights_digest=digest)


def _tell_cause(teller: Teller, cause: str) -> None:
    """Tell why a run that goes on is not as it should be; nothing once it is."""
    teller.tell(StateChanged(state=RunState.RUNNING, cause=cause))


class _Chunks:
    """The chunks that a run has still to train, from its checkpoint on."""

    def __init__(
        self,
        training: ChildTraining,
        steering: Steering,
        keeper: Keeper,
        teller: Teller,
        signals: _Signals,
    ) -> None:
        self._training = training
        self._steering = steering
        self._keeper = keeper
        self._teller = teller
        self._signals = signals
        self._last: tuple[Chunk, int] | None = None
        """The last one that was trained here, and the policy version that it ran under."""
        self._is_unkept = False
        """Whether it was told that checkpoints cannot be written."""

    def train(self) -> bool:
        """Train all of them; return whether the training diverged.

        Raises:
            _HandedBack: with a checkpoint, where the disk takes one.
        """
        try:
            return self._train()
        except _HandedBack:
            if self._last is not None:
                self._keep(self._keeper.keep)
            raise

    def _train(self) -> bool:
        again = self._keeper.resume()
        if again is not None:
            self._tell(again)
        while self._training.trained_chunks < self._training.chunks:
            self._signals.check()
            version = self._steering.policy_version
            try:
                chunk = self._training.train_chunk(self._steering.values)
            except Diverged:
                return True
            self._last = (chunk, version)
            self._keep(self._keeper.keep_if_due)
            self._tell(ChunkTrained(chunk=chunk, policy_version=version, agent_seconds=0.0))
        return False

    def _tell(self, trained: ChunkTrained) -> None:
        """Report a chunk to who decides, then tell the service."""
        before = time.perf_counter()
        self._steering.report(trained.chunk)
        seconds = time.perf_counter() - before
        self._teller.tell(replace(trained, agent_seconds=seconds))

    def _keep(self, keep: Callable[[Chunk, int], None]) -> None:
        """Keep a checkpoint by `keep`; training goes on without one where the disk takes none."""
        assert self._last is not None
        try:
            keep(*self._last)
        except OSError as error:
            cause = f"no checkpoint can be written: {error.strerror}"
            log.warning("%s: %s", cause, error.filename)
            _tell_cause(self._teller, cause)
            self._is_unkept = True
        else:
            if self._is_unkept and self._keeper.kept_chunk == self._last[0].index:
                _tell_cause(self._teller, "")
                self._is_unkept = False
