"""Saves and restores one run's checkpoints: training state, last chunk and elapsed time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent_service.domain.errors import FailedPrecondition
from trainer_service.runs.run import ChunkTrained, Run
from trainer_service.training.checkpoint import Checkpoints, Pace
from trainer_service.training.chunk import Chunk
from trainer_service.training.folder import Folder

if TYPE_CHECKING:
    # Imports torchvision, which is slow and not needed to read checkpoints.
    from trainer_service.training.loop import ChildTraining

log = logging.getLogger(__name__)

SIZE_TO_WEIGHTS = 4
"""Checkpoint size in multiples of the weights: these, Adam's two moments, the best epoch's."""


def checkpoints_of(run: Run, folder: Folder) -> Checkpoints:
    """Return a run's checkpoints; a run with the same id in another store has its own."""
    return Checkpoints(folder.folder(run.id), origin=f"{run.id} of {run.created_at!r}")


def last_checkpoint(run: Run, folder: Folder) -> dict[str, Any] | None:
    """Return an ended run's checkpoint of its last chunk; None if it is missing or damaged."""
    content = checkpoints_of(run, folder).newest(up_to=run.trained_chunks)
    is_last = content is not None and content["chunk"]["index"] == run.trained_chunks
    return content if is_last else None


class CheckpointsUnreadable(Exception):
    """The checkpoint storage cannot be read now; a restart of the run may succeed."""


class Checkpointer:
    """Saves one run's checkpoints, and resumes from them.

    A checkpoint is saved at the end of a chunk, before the chunk is reported, and contains the
    chunk. A run that resumes there reports the chunk again, which is idempotent.
    """

    def __init__(
        self,
        run: Run,
        training: ChildTraining,
        *,
        parent: Run | None,
        folder: Folder,
        pace: Pace,
        flush: Callable[[], None],
    ) -> None:
        """Save the state of `training`, which has not begun, below the folder of all runs.

        All runs of the process share `pace`. `flush` waits until earlier chunks are stored, so that
        none older than a checkpoint is lost.
        """
        self._run_id = run.id
        self._parent = parent
        self._folder = folder
        self._reported_chunks = run.trained_chunks
        self._training = training
        self._flush = flush
        self._checkpoints = checkpoints_of(run, folder)
        weights = training.state()["weights"].values()
        self._pace = pace
        pace.expect(SIZE_TO_WEIGHTS * sum(tensor.nbytes for tensor in weights))
        self._started = time.perf_counter()
        self.saved_chunk = 0
        """The chunk of the newest checkpoint; 0 without one."""

    @property
    def seconds(self) -> float:
        """Training time so far, in all processes of the run."""
        return time.perf_counter() - self._started

    def resume(self) -> ChunkTrained | None:
        """Restore the newest checkpoint and return its chunk, to be reported again.

        Without a checkpoint, restore the parent's last one and return None: that chunk is the
        parent's.

        Raises:
            FailedPrecondition: the parent's checkpoint is damaged or gone.
            CheckpointsUnreadable: the storage cannot be read.
        """
        try:
            return self._resume()
        except OSError as error:
            raise CheckpointsUnreadable(f"checkpoints cannot be read: {error}") from error

    def _resume(self) -> ChunkTrained | None:
        # The run store may be restored from a backup, older than its checkpoints: skip no chunk.
        content = self._checkpoints.newest(up_to=self._reported_chunks + 1)
        if content is None:
            self._start_from_parent()
            return None
        self._training.restore(content["training"])
        self._started = time.perf_counter() - content["seconds"]
        chunk = Chunk(**content["chunk"])
        self.saved_chunk = chunk.index
        log.info("run %s resumes from the checkpoint of chunk %d", self._run_id, chunk.index)
        return ChunkTrained(
            chunk=chunk, policy_version=content["policy_version"], agent_seconds=0.0
        )

    def _start_from_parent(self) -> None:
        if self._parent is None:
            return
        content = last_checkpoint(self._parent, self._folder)
        if content is None:
            text = f"the checkpoint of its parent, {self._parent.id!r}, is damaged or gone"
            raise FailedPrecondition(text)
        self._training.restore(content["training"])
        # Reading the checkpoint is not training time.
        self._started = time.perf_counter()
        log.info("run %s continues from the end of %s", self._run_id, self._parent.id)

    def save_if_due(self, chunk: Chunk, policy_version: int) -> None:
        """Save a checkpoint at the end of `chunk` if one is due; raises OSError."""
        if self._pace.is_due(chunk.index):
            self.save(chunk, policy_version)

    def save(self, chunk: Chunk, policy_version: int) -> None:
        """Save a checkpoint at the end of `chunk`, unless it is saved already; raises OSError."""
        if chunk.index == self.saved_chunk:
            return
        self._flush()
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
            self.saved_chunk = chunk.index
        finally:
            self._pace.took(time.perf_counter() - before)
