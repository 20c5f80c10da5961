"""What runs leave behind: the last checkpoints of those that were asked to keep them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent_service.domain.checks import quoted
from agent_service.domain.errors import FailedPrecondition, NotFound, Unavailable, within
from trainer_service.run import Run, RunSpec, RunState
from trainer_service.runs.lineage import check_goes_on
from trainer_service.runs.store import RunStore
from trainer_service.training.checkpoint import has_checkpoints, leave_newest, remove_unfinished
from trainer_service.training.final import Which
from trainer_service.training.folder import Folder
from trainer_service.workers.checkpointer import last_checkpoint

log = logging.getLogger(__name__)


class Kept:
    """The checkpoints of runs that have ended. Thread-safe."""

    def __init__(self, store: RunStore, folder: Folder) -> None:
        """Look after a folder.

        Args:
            store: of the runs; stays the caller's.
            folder: of the checkpoints of all of them, a folder each.
        """
        self._store = store
        self._folder = folder
        self._one_at_a_time = threading.Lock()
        """A checkpoint in memory is four times its child: one at a time."""

    def sweep(self) -> None:
        """Remove what a kill left: unfinished checkpoints, and those of runs that keep none.

        Only before processes are started, by who has the run store: then nobody writes here.
        """
        for name in self._folder.folders():
            run = self._store.find(name)
            if run is None or (run.state.is_final and not run.is_kept):
                self._folder.folder(name).remove_all()
            else:
                remove_unfinished(self._folder.folder(name))

    def settle(self, run: Run) -> None:
        """Leave of a run that has just ended what it should leave."""
        if run.is_kept:
            leave_newest(self._folder.folder(run.id))
        else:
            self._folder.folder(run.id).remove_all()

    def discard(self, run: Run) -> None:
        """Remove what a run left, if it is there.

        Raises:
            FailedPrecondition: it has not ended, or another that has not ended goes on from it.
        """
        if not run.state.is_final:
            raise FailedPrecondition(f"run {run.id!r} is {run.state}; cancel it, or let it end")
        if (child := self._store.find_unended_child(run.id)) is not None:
            text = f"run {child!r} goes on from {run.id!r}; cancel that, or let it end"
            raise FailedPrecondition(text)
        self._folder.folder(run.id).remove_all()
        log.info("run %s: its checkpoint is discarded", run.id, extra={"run": run.id})

    def beginning(self, spec: RunSpec) -> int:
        """Return after how many chunks a run begins: where its parent ended.

        Raises:
            NotFound: there is no parent of this id.
            FailedPrecondition: it has no checkpoint.
            InvalidArgument: the run cannot go on there.
            Unavailable: whether it has one cannot be told now.
        """
        if not spec.parent:
            return 0
        parent = self._store.find(spec.parent)
        if parent is None:
            raise NotFound(f"no run {quoted(spec.parent)} to go on from; name one that was kept")
        with _reading():
            if (why := self._missing(parent)) is not None:
                raise FailedPrecondition(f"run {parent.id!r} {why}")
        with within("spec."):
            check_goes_on(spec.training, parent)
        return parent.trained_chunks

    def weights(self, run: Run, which: Which) -> bytes:
        """Return a run's weights as a file.

        Raises:
            FailedPrecondition: there are none.
            Unavailable: they cannot be read now.
        """
        # They import torchvision, which takes longer than all else that a service imports.
        from trainer_service.training.child.inputs import Inputs
        from trainer_service.training.child_file import child_file

        with self._one_at_a_time, _reading():
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
        content = last_checkpoint(run, self._folder)
        if content is None:
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
        if not has_checkpoints(self._folder.folder(run.id)):
            return "has no checkpoint any more: it was discarded"
        return None


@contextmanager
def _reading() -> Iterator[None]:
    """Raise what a folder that cannot be read raises as Unavailable."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"checkpoints cannot be read: {error}") from error
