"""What a run's checkpoints hold beside its training's state, and when they are made."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent_service.domain.errors import FailedPrecondition
from trainer_service.run import ChunkTrained, Run
from trainer_service.training.checkpoint import Checkpoints, Pace
from trainer_service.training.chunk import Chunk
from trainer_service.training.folder import Folder

if TYPE_CHECKING:
    # It imports torchvision, which whoever only reads checkpoints need not wait for.
    from trainer_service.training.loop import ChildTraining

log = logging.getLogger(__name__)

SIZE_TO_WEIGHTS = 4
"""A checkpoint to the weights: these, Adam's two moments, and the weights of the best epoch."""


def checkpoints_of(run: Run, folder: Folder) -> Checkpoints:
    """Return a run's checkpoints; one of the same id in another store has others.

    Args:
        run: the run.
        folder: of the checkpoints of all runs.
    """
    return Checkpoints(folder.folder(run.id), origin=f"{run.id} of {run.created_at!r}")


def last_checkpoint(run: Run, folder: Folder) -> dict[str, Any] | None:
    """Return what a run that has ended kept of its last chunk's end; None where that is not whole.

    Args:
        run: as it ended.
        folder: of the checkpoints of all runs.
    """
    content = checkpoints_of(run, folder).newest(up_to=run.trained_chunks)
    is_last = content is not None and content["chunk"]["index"] == run.trained_chunks
    return content if is_last else None


class CheckpointsAway(Exception):
    """What holds a run's checkpoints cannot be read now; another start may read it."""


class Keeper:
    """Keeps one run's checkpoints.

    Each is made at a chunk's end, before the chunk is told to anybody, and holds what is told of
    it. Who goes on from there tells it again, which changes nothing where it had been told.
    """

    def __init__(
        self,
        run: Run,
        training: ChildTraining,
        *,
        parent: Run | None,
        folder: Folder,
        pace: Pace,
        settle: Callable[[], None],
    ) -> None:
        """Keep the state of `training`, which has not begun.

        Args:
            run: whose it is.
            training: its training.
            parent: the run that it goes on from, if any.
            folder: of the checkpoints of all runs.
            pace: says when they are made; it is that of all runs of this process.
            settle: waits until the chunks before are stored: none may be lost behind a checkpoint.
        """
        self._run_id = run.id
        self._parent = parent
        self._folder = folder
        self._told_chunks = run.trained_chunks
        self._training = training
        self._settle = settle
        self._checkpoints = checkpoints_of(run, folder)
        weights = training.state()["weights"].values()
        self._pace = pace
        pace.expect(SIZE_TO_WEIGHTS * sum(tensor.nbytes for tensor in weights))
        self._started = time.perf_counter()
        self.kept_chunk = 0
        """The chunk of the newest checkpoint; 0 without one."""

    @property
    def seconds(self) -> float:
        """Time that the training took so far, in all its processes."""
        return time.perf_counter() - self._started

    def resume(self) -> ChunkTrained | None:
        """Bring the training to its newest checkpoint; return that chunk, to be told again.

        Where it has none yet, to its parent's last one: that chunk is not its own, and not told.

        Raises:
            FailedPrecondition: the parent's is damaged or gone.
            CheckpointsAway: whether there is one cannot be told.
        """
        try:
            return self._resume()
        except OSError as error:
            raise CheckpointsAway(f"checkpoints cannot be read: {error}") from error

    def _resume(self) -> ChunkTrained | None:
        # The store may be older than its checkpoints, put back from a copy: no chunk may lack.
        content = self._checkpoints.newest(up_to=self._told_chunks + 1)
        if content is None:
            self._begin_as_parent()
            return None
        self._training.restore(content["training"])
        self._started = time.perf_counter() - content["seconds"]
        chunk = Chunk(**content["chunk"])
        self.kept_chunk = chunk.index
        log.info("run %s goes on from the checkpoint of chunk %d", self._run_id, chunk.index)
        return ChunkTrained(
            chunk=chunk, policy_version=content["policy_version"], agent_seconds=0.0
        )

    def _begin_as_parent(self) -> None:
        if self._parent is None:
            return
        content = last_checkpoint(self._parent, self._folder)
        if content is None:
            text = f"the checkpoint of its parent, {self._parent.id!r}, is damaged or gone"
            raise FailedPrecondition(text)
        self._training.restore(content["training"])
        # What it takes to read that is no training.
        self._started = time.perf_counter()
        log.info("run %s goes on from the end of %s", self._run_id, self._parent.id)

    def keep_if_due(self, chunk: Chunk, policy_version: int) -> None:
        """Make a checkpoint at the end of `chunk` if it is time; raises OSError."""
        if self._pace.is_due(chunk.index):
            self.keep(chunk, policy_version)

    def keep(self, chunk: Chunk, policy_version: int) -> None:
        """Make a checkpoint at the end of `chunk`, unless there is one; raises OSError.

        Args:
            chunk: the last one that was trained.
            policy_version: that decided what it ran under.
        """
        if chunk.index == self.kept_chunk:
            return
        self._settle()
        before = time.perf_counter()
        content = {
            "training": self._training.state(),
            "inputs": asdict(self._training.inputs),
            "chunk": asdict(chunk),
            "policy_version": policy_version,
            "seconds": self.seconds,
        }
        try:
            self._checkpoints.save(chunk.index, content)
            self.kept_chunk = chunk.index
        finally:
            self._pace.took(time.perf_counter() - before)
