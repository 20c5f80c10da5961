"""A run in the process that trains it: asks who decides, keeps checkpoints, tells what happens."""

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
from trainer_service.run import ChunkTrained, Finished, Planned, Run, RunState, StateChanged
from trainer_service.training.checkpoint import Pace
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import Images
from trainer_service.training.device import describe_device
from trainer_service.training.folder import open_folder
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.workers.keeper import CheckpointsAway, Keeper
from trainer_service.workers.link import Teller
from trainer_service.workers.steering import Patience, Steering, make_steering

log = logging.getLogger(__name__)


class Cancelled(BaseException):
    """The service asked to end a run; no `Exception`, so that nothing takes it for one."""


class HandedBack(BaseException):
    """The service asked for a run's checkpoint, to go on with it later."""


class StackFailed(Exception):
    """Children failed together; each shall start again, alone, to see whose fault it is."""


_FINAL = (
    *(AgentError, OSError, MemoryError, torch.OutOfMemoryError),
    *(ValueError, TypeError, NotImplementedError),  # as torch refuses what a child asks of it
)
"""Errors that another start would meet again; after others the run starts from its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What the runs of one process share."""

    config: TrainerConfig
    """The service's."""
    agent: Callable[[], AgentClient]
    """Connects to the agent service, once; raises AgentError."""
    images: Callable[[], Images]
    """Loads the data set, once; raises DataError."""
    pace: Pace
    """Of checkpoints."""
    together: int
    """Runs that the process began with."""
    members: list[Member] = field(default_factory=list)
    """Those that have not left."""


class Member:
    """One of the runs that a process trains.

    What is raised within a call is told as the run's state, and the run has left then.
    """

    training: ChildTraining
    """Its child; once `prepare` has returned, unless the run has left."""

    def __init__(
        self,
        run: Run,
        teller: Teller,
        workplace: Workplace,
        *,
        parent: Run | None,
        check: Callable[[], None],
    ) -> None:
        """Do nothing yet.

        Args:
            run: the run.
            teller: told all that happens.
            workplace: shared with others.
            parent: the run that it goes on from, if any.
            check: raises Cancelled or HandedBack where the service asked for it.
        """
        self._run = run
        self._teller = teller
        self._workplace = workplace
        self._parent = parent
        self._check = check
        self._steering: Steering | None = None
        self._keeper: Keeper
        self._has_begun = False
        self._last: tuple[Chunk, int] | None = None
        """The last chunk that was trained here, and the policy version that it ran under."""
        self._is_diverged = False
        """Whether there is no next chunk, since its losses are not finite."""
        self._unkept = ""
        """Why checkpoints cannot be written, as it was told; empty where they can."""
        self.has_left = False
        """Whether it trains here no more."""

    @property
    def values(self) -> Mapping[str, float]:
        """What the next chunk runs under."""
        assert self._steering is not None
        return self._steering.values

    def prepare(self) -> None:
        """Come to where the next chunk can be trained, or leave."""
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

    def take(self, result: Chunk | Diverged) -> None:
        """Take what training the next chunk brought; nothing else happens yet."""
        if isinstance(result, Diverged):
            self._is_diverged = True
        else:
            assert self._steering is not None
            self._last = (result, self._steering.policy_version)

    def tell(self) -> None:
        """Keep and tell what was taken, and come by the values of the next chunk; or finish."""
        if self.has_left:
            return
        with self._leaving():
            if self._is_diverged:
                self._finish()
                return
            is_last = self.training.trained_chunks == self.training.chunks
            is_kept = is_last and self._run.spec.keep
            self._keep(self._keeper.keep if is_kept else self._keeper.keep_if_due)
            assert self._last is not None
            chunk, version = self._last
            self._tell(ChunkTrained(chunk=chunk, policy_version=version, agent_seconds=0.0))

    def leave_if_asked(self) -> None:
        """Leave where the service asked to; not while a chunk is trained."""
        if not self.has_left:
            with self._leaving():
                self._check()

    def tell_cause(self, cause: str) -> None:
        """Tell why a run that goes on is not as it should be; nothing once it is."""
        if not self.has_left:
            self._teller.tell(StateChanged(state=RunState.RUNNING, cause=cause))

    def fail(self, error: BaseException) -> None:
        """Leave by what was raised as the next chunk was trained."""
        with self._leaving():
            raise error

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Let the run leave by what is raised within."""
        try:
            yield
        except Cancelled:
            self._give_up(Outcome.CANCELLED)
            self._leave(RunState.CANCELLED)
        except HandedBack:
            # What diverged is no chunk's end: it goes on from an older checkpoint, and ends again.
            if self._last is not None and not self._is_diverged:
                self._keep(self._keeper.keep)
            self._leave(RunState.QUEUED)
        except StackFailed as error:
            self._leave(RunState.QUEUED, str(error))
        except Exception as error:
            if not isinstance(error, AgentError | OSError | CheckpointsAway):
                log.exception("a fault of ours, or of torch", extra={"run": self._run.id})
            is_final = isinstance(error, _FINAL)
            if is_final:
                self._give_up(Outcome.TRUNCATED)
            state = RunState.FAILED if is_final else RunState.QUEUED
            self._leave(state, f"{type(error).__name__}: {error}")

    def _give_up(self, outcome: Outcome) -> None:
        if self._steering is not None:
            self._steering.give_up(outcome)

    def _leave(self, state: RunState, cause: str = "") -> None:
        self.has_left = True
        self._teller.tell_last(StateChanged(state=state, cause=cause))

    def _begin(self) -> None:
        """Build the child, start the run at the agent, and go on from the newest checkpoint."""
        run, config = self._run, self._workplace.config
        # First, since the agent is told how long the run will be.
        images = self._workplace.images()
        self.training = ChildTraining(
            run.spec.training,
            images,
            torch.device(config.device),
            children=self._workplace.together,
        )
        self._keeper = Keeper(
            run,
            self.training,
            parent=self._parent,
            folder=open_folder(config.checkpoints),
            pace=self._workplace.pace,
            settle=self._teller.settle,
        )
        patience = Patience(config.agent_seconds, tell=self._tell_all, check=self._check_all)
        chunks = self.training.chunks
        agent = self._workplace.agent()
        before = 0 if self._parent is None else self._parent.trained_chunks
        self._steering = make_steering(
            agent, run.id, run.spec, patience, chunks=range(before + 1, chunks + 1)
        )
        self._teller.tell(Planned(chunks=chunks))
        again = self._keeper.resume()
        if again is not None:
            self._tell(again)
        self._has_begun = True

    def _tell_all(self, cause: str) -> None:
        """Tell why this run waits, and so all others of its process."""
        for member in self._workplace.members:
            member.tell_cause(cause)

    def _check_all(self) -> None:
        """Let others leave while this run waits; raise where it should leave itself."""
        for member in self._workplace.members:
            if member is not self:
                member.leave_if_asked()
        self._check()

    def _finish(self) -> None:
        """Judge the child, tell who decided, and tell the result."""
        assert self._steering is not None
        digest = self.training.weights_digest()
        scores = self.training.finish()
        outcome = Outcome.DIVERGED if self._is_diverged else Outcome.TERMINATED
        self._steering.finish(outcome, scores.validation_score_best)
        self._teller.tell(
            Finished(
                scores=scores,
                diverged=self._is_diverged,
                seconds=self._keeper.seconds,
                device=self._device(),
                weights_digest=digest,
            )
        )
        self._leave(RunState.SUCCEEDED, self._why_unkept() if self._run.spec.keep else "")

    def _why_unkept(self) -> str:
        """Return why the last checkpoint does not stay; empty where it does."""
        if self._is_diverged:
            return "it diverged, so that there is no last checkpoint to keep"
        # Where the run went on from its last checkpoint, nothing was kept here, nor failed to be.
        is_kept = self._keeper.kept_chunk == self.training.trained_chunks
        return "" if is_kept else self._unkept

    def _device(self) -> str:
        words = describe_device(torch.device(self._workplace.config.device))
        others = self._workplace.together - 1
        return f"{words}, stacked with {others} more" if others else words

    def _tell(self, trained: ChunkTrained) -> None:
        """Report a chunk to who decides, then tell the service."""
        assert self._steering is not None
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
            about = {"run": self._run.id}
            log.warning("run %s: %s: %s", self._run.id, cause, error.filename, extra=about)
            self.tell_cause(cause)
            self._unkept = cause
        else:
            if self._unkept and self._keeper.kept_chunk == self._last[0].index:
                self.tell_cause("")
                self._unkept = ""
