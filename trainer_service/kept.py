"""What runs leave behind: the last checkpoints of those that were asked to keep them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from agent_service.domain.errors import FailedPrecondition
from trainer_service.keeper import checkpoints_of
from trainer_service.run import Run, RunState
from trainer_service.store import RunStore
from trainer_service.training.checkpoint import leave_newest, remove_checkpoints
from trainer_service.training.child_file import child_file
from trainer_service.training.final import Which
from trainer_service.training.inputs import Inputs

log = logging.getLogger(__name__)


class Kept:
    """The checkpoints of runs that have ended. Thread-safe."""

    def __init__(self, store: RunStore, folder: Path) -> None:
        """Look after a folder.

        Args:
            store: of the runs; stays the caller's.
            folder: of the checkpoints of all of them, a folder each.
        """
        self._store = store
        self._folder = folder
        self._reading = threading.Lock()
        """A checkpoint in memory is four times its child: one at a time."""

    def sweep(self) -> None:
        """Remove what a kill left between a run's end and its removal, or another store."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            run = self._store.find(path.name)
            if run is None or (run.state.is_final and not run.is_kept):
                remove_checkpoints(path)

    def settle(self, run: Run) -> None:
        """Leave of a run that has just ended what it should leave."""
        if run.is_kept:
            leave_newest(self._folder / run.id)
        else:
            remove_checkpoints(self._folder / run.id)

    def discard(self, run: Run) -> None:
        """Remove what a run left, if it is there; raises FailedPrecondition before its end."""
        if not run.state.is_final:
            raise FailedPrecondition(f"run {run.id!r} is {run.state}; cancel it, or let it end")
        remove_checkpoints(self._folder / run.id)
        log.info("run %s: its checkpoint is discarded", run.id, extra={"run": run.id})

    def weights(self, run: Run, which: Which) -> bytes:
        """Return a run's weights as a file; raises FailedPrecondition where there are none."""
        with self._reading:
            content = self._content(run)
            assert run.result is not None, "what succeeded has one"
            return child_file(
                content["training"],
                run.result.scores,
                which=which,
                run_id=run.id,
                training=run.spec.training,
                inputs=Inputs(**content["inputs"]),
            )

    def _content(self, run: Run) -> dict[str, Any]:
        if (why := self._missing(run)) is not None:
            raise FailedPrecondition(f"run {run.id!r} {why}")
        content = checkpoints_of(run, self._folder).newest(up_to=run.trained_chunks)
        if content is None or content["chunk"]["index"] != run.trained_chunks:
            text = "its checkpoint is damaged; the service's log says how"
            raise FailedPrecondition(f"run {run.id!r}: {text}")
        return content

    def _missing(self, run: Run) -> str | None:
        """Return why there is no checkpoint of a run; None where there is one."""
        if not run.state.is_final:
            return f"is {run.state}; what it keeps is there once it has succeeded"
        if run.state is not RunState.SUCCEEDED:
            return f"is {run.state}, and only one that succeeds keeps its checkpoint"
        if not run.spec.keep:
            return "was not to keep its checkpoint; submit it with `keep`, by another id"
        if not run.is_kept:
            return f"kept no checkpoint: {run.cause}"
        if not (self._folder / run.id).is_dir():
            return "has no checkpoint any more: it was discarded"
        return None
