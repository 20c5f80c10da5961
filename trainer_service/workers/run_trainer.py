"""Trains one run in its worker process: applies actions, saves checkpoints, sends events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError
from agent_service.domain.runs import Outcome
from trainer_service.config import TrainerConfig
from trainer_service.runs.run import ChunkTrained, Finished, Planned, Run, RunState, StateChanged
from trainer_service.training.checkpoint import Pace
from trainer_service.training.child.execution import describe_device
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import Images
from trainer_service.training.folder import open_folder
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.workers.checkpointer import Checkpointer, CheckpointsUnreadable
from trainer_service.workers.pipe import EventSender
from trainer_service.workers.value_source import AgentRetry, ValueSource, make_value_source

log = logging.getLogger(__name__)


class Cancelled(BaseException):
    """The service cancelled a run; a BaseException, so that no `except Exception` catches it."""


class Preempted(BaseException):
    """The service asked for a run's checkpoint, to resume it later."""


class StackFailed(Exception):
    """Stacked children failed; each restarts alone, to find the one at fault."""


_FINAL = (
    *(AgentError, OSError, MemoryError, torch.OutOfMemoryError),
    *(ValueError, TypeError, NotImplementedError),  # as torch rejects arguments
)
"""Errors that a restart would meet again; after others the run restarts from its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """Resources that the runs of one process share."""

    config: TrainerConfig
    """The service's."""
    agent: Callable[[], AgentClient]
    """Connects to the agent service on the first call; raises AgentError."""
    images: Callable[[], Images]
    """Loads the data set on the first call; raises DataError."""
    pace: Pace
    """When to save checkpoints."""
    together: int
    """Number of runs that the process began with."""
    trainers: list[RunTrainer] = field(default_factory=list)
    """Trainers of the runs that have not left."""


class RunTrainer:
    """Trains one of the runs of a process.

    An exception within a call ends the run here: it is sent as the run's last state.
    """

    training: ChildTraining
    """The child's training; set once `prepare` has returned, unless the run has left."""

    def __init__(
        self,
        run: Run,
        sender: EventSender,
        context: WorkerContext,
        *,
        parent: Run | None,
        check: Callable[[], None],
    ) -> None:
        """Store the arguments; `check` raises Cancelled or Preempted if the service asked."""
        self._run = run
        self._sender = sender
        self._context = context
        self._parent = parent
        self._check = check
        self._source: ValueSource | None = None
        self._checkpointer: Checkpointer
        self._has_begun = False
        self._last: tuple[Chunk, int] | None = None
        """The last chunk trained here, and the policy version that it ran under."""
        self._is_diverged = False
        """Whether a loss was not finite, so that no chunk follows."""
        self._save_error = ""
        """Why checkpoints cannot be written, as reported; empty if they can."""
        self.has_left = False
        """Whether the run no longer trains here."""

    @property
    def values(self) -> Mapping[str, float]:
        """Hyperparameter values of the next chunk."""
        assert self._source is not None
        return self._source.values

    def prepare(self) -> None:
        """Get ready to train the next chunk, or leave."""
        if self.has_left:
            return
        with self._leaving():
            if not self._has_begun:
                self._check()
                self._begin()
            if self.training.trained_chunks < self.training.chunks:
                self._check()
            else:
                self._finish()

    def accept(self, result: Chunk | Diverged) -> None:
        """Store the result of training the next chunk; `publish` follows."""
        if isinstance(result, Diverged):
            self._is_diverged = True
        else:
            assert self._source is not None
            self._last = (result, self._source.policy_version)

    def publish(self) -> None:
        """Save a checkpoint if due, report the chunk and send it; or finish a diverged run."""
        if self.has_left:
            return
        with self._leaving():
            if self._is_diverged:
                self._finish()
                return
            is_last = self.training.trained_chunks == self.training.chunks
            must_save = is_last and self._run.spec.keep
            self._save(self._checkpointer.save if must_save else self._checkpointer.save_if_due)
            assert self._last is not None
            chunk, version = self._last
            self._report(ChunkTrained(chunk=chunk, policy_version=version, agent_seconds=0.0))

    def leave_if_asked(self) -> None:
        """Leave if the service asked for it; not to be called while a chunk trains."""
        if not self.has_left:
            with self._leaving():
                self._check()

    def send_cause(self, cause: str) -> None:
        """Send why the running run is impaired; an empty cause means that it no longer is."""
        if not self.has_left:
            self._sender.send(StateChanged(state=RunState.RUNNING, cause=cause))

    def fail(self, error: BaseException) -> None:
        """Leave because of an error in training the next chunk."""
        with self._leaving():
            raise error

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Turn an exception within into the run's last state."""
        try:
            yield
        except Cancelled:
            self._give_up(Outcome.CANCELLED)
            self._leave(RunState.CANCELLED)
        except Preempted:
            # A diverged chunk is not saved: the run resumes from an older one, and diverges again.
            if self._last is not None and not self._is_diverged:
                self._save(self._checkpointer.save)
            self._leave(RunState.QUEUED)
        except StackFailed as error:
            self._leave(RunState.QUEUED, str(error))
        except Exception as error:
            if not isinstance(error, AgentError | OSError | CheckpointsUnreadable):
                log.exception("unexpected error in a run", extra={"run": self._run.id})
            is_final = isinstance(error, _FINAL)
            if is_final:
                self._give_up(Outcome.TRUNCATED)
            state = RunState.FAILED if is_final else RunState.QUEUED
            self._leave(state, f"{type(error).__name__}: {error}")

    def _give_up(self, outcome: Outcome) -> None:
        if self._source is not None:
            self._source.give_up(outcome)

    def _leave(self, state: RunState, cause: str = "") -> None:
        self.has_left = True
        self._sender.send_last(StateChanged(state=state, cause=cause))

    def _begin(self) -> None:
        """Build the child, start the run at the agent, and resume from the newest checkpoint."""
        run, config = self._run, self._context.config
        # First, since the agent is told the planned length and what the training is about.
        images = self._context.images()
        self.training = ChildTraining(
            run.spec.training,
            images,
            torch.device(config.device),
            children=self._context.together,
        )
        self._checkpointer = Checkpointer(
            run,
            self.training,
            parent=self._parent,
            folder=open_folder(config.checkpoints),
            pace=self._context.pace,
            flush=self._sender.flush,
        )
        retry = AgentRetry(
            config.agent_seconds, notify=self._send_cause_of_all, check=self._check_all
        )
        chunks = self.training.chunks
        agent = self._context.agent()
        before = 0 if self._parent is None else self._parent.trained_chunks
        self._source = make_value_source(
            agent,
            run.id,
            run.spec,
            retry,
            chunks=range(before + 1, chunks + 1),
            problem=self.training.problem,
        )
        self._sender.send(Planned(chunks=chunks))
        resumed = self._checkpointer.resume()
        if resumed is not None:
            self._report(resumed)
        self._has_begun = True

    def _send_cause_of_all(self, cause: str) -> None:
        """Send why this run waits, and with it all others of its process."""
        for trainer in self._context.trainers:
            trainer.send_cause(cause)

    def _check_all(self) -> None:
        """Let other runs leave while this one waits; raise if this run itself should leave."""
        for trainer in self._context.trainers:
            if trainer is not self:
                trainer.leave_if_asked()
        self._check()

    def _finish(self) -> None:
        """Evaluate the child, finish the run at the agent, and send the result."""
        assert self._source is not None
        digest = self.training.weights_digest()
        scores = self.training.finish()
        outcome = Outcome.DIVERGED if self._is_diverged else Outcome.TERMINATED
        self._source.finish(outcome, scores.validation_score_best)
        self._sender.send(
            Finished(
                scores=scores,
                diverged=self._is_diverged,
                seconds=self._checkpointer.seconds,
                device=self._device(),
                weights_digest=digest,
            )
        )
        self._leave(RunState.SUCCEEDED, self._why_unkept() if self._run.spec.keep else "")

    def _why_unkept(self) -> str:
        """Return why no last checkpoint was kept; empty if one was."""
        if self._is_diverged:
            return "it diverged, so that there is no last checkpoint to keep"
        # A run resumed from its last checkpoint saved nothing here, and nothing failed.
        is_kept = self._checkpointer.saved_chunk == self.training.trained_chunks
        return "" if is_kept else self._save_error

    def _device(self) -> str:
        words = describe_device(torch.device(self._context.config.device))
        others = self._context.together - 1
        return f"{words}, stacked with {others} more" if others else words

    def _report(self, trained: ChunkTrained) -> None:
        """Report a chunk to the value source, then send it to the service."""
        assert self._source is not None
        before = time.perf_counter()
        self._source.report(trained.chunk)
        seconds = time.perf_counter() - before
        self._sender.send(replace(trained, agent_seconds=seconds))

    def _save(self, save: Callable[[Chunk, int], None]) -> None:
        """Save a checkpoint by `save`; if the disk refuses it, training continues without one."""
        assert self._last is not None
        try:
            save(*self._last)
        except OSError as error:
            cause = f"no checkpoint can be written: {error.strerror}"
            about = {"run": self._run.id}
            log.warning("run %s: %s: %s", self._run.id, cause, error.filename, extra=about)
            self.send_cause(cause)
            self._save_error = cause
        else:
            if self._save_error and self._checkpointer.saved_chunk == self._last[0].index:
                self.send_cause("")
                self._save_error = ""
