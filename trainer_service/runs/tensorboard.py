"""Writes TensorBoard event files: each run's losses, scores and hyperparameters by chunk.

The run store is the source of truth: when a run resumes after a stop or a kill, its files are
rewritten from the store, so that no chunk is missing or shown twice.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent_service.domain.errors import AgentError
from trainer_service.runs.run import ChunkTrained, EventContent, Finished, RunState, StateChanged
from trainer_service.runs.store import RunStore

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5
"""Longest delay before a chunk is shown."""


class EventFiles:
    """Observes runs and writes to `FOLDER/RUN/`; one thread per run."""

    def __init__(self, folder: Path, store: RunStore) -> None:
        """Write into `folder`, reading earlier events from `store`, which the caller owns.

        Raises:
            AgentError: TensorBoard is not installed.
        """
        try:
            # Imported here: optional, and large.
            from torch.utils.tensorboard import writer
        except ImportError as error:
            raise AgentError(f"event files need `pip install tensorboard`: {error}") from error
        self._make_writer = writer.SummaryWriter
        self._folder = folder
        self._store = store
        self._writers: dict[str, SummaryWriter] = {}

    def observe(self, run_id: str, what: EventContent) -> None:
        """Write one event; a disk error is logged, and ends the files of this run only."""
        try:
            if isinstance(what, StateChanged) and what.state is RunState.RUNNING:
                self._begin(run_id)
            elif isinstance(what, StateChanged) and run_id in self._writers:
                self._writers.pop(run_id).close()
            elif run_id in self._writers:
                self._write(run_id, what, time.time())
        except OSError as error:
            text = "no event file of run %s is written any more: %s"
            log.warning(text, run_id, error, extra={"run": run_id})
            self._writers.pop(run_id, None)

    def _begin(self, run_id: str) -> None:
        """Rewrite all stored events of a run that starts, or resumes."""
        if run_id in self._writers:
            return
        folder = self._folder / run_id
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writers[run_id] = self._make_writer(str(folder), flush_secs=FLUSH_SECONDS)
        for event in self._store.events(run_id, after=0):
            self._write(run_id, event.what, event.time)

    def _write(self, run_id: str, what: EventContent, now: float) -> None:
        match what:
            case ChunkTrained() as trained:
                step, scalars = trained.chunk.index, _chunk_scalars(trained)
            case Finished(scores=scores):
                step = scores.best_epoch
                scalars = {"test/best": scores.test_score_best, "test/last": scores.test_score_last}
            case _:
                return
        for tag, value in scalars.items():
            self._writers[run_id].add_scalar(tag, value, step, walltime=now)


def _chunk_scalars(trained: ChunkTrained) -> dict[str, float]:
    chunk = trained.chunk
    return {
        "loss/train": sum(chunk.losses) / len(chunk.losses),
        "loss/validation": chunk.validation_loss,
        "score/train": chunk.training_score,
        "score/validation": chunk.validation_score,
        **{f"hyperparameter/{name}": value for name, value in chunk.values.items()},
    }
