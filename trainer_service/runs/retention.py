"""Retains the last checkpoints of runs that were submitted with `keep`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from agent_service.domain import errors
from agent_service.domain.checks import quoted
from trainer_service.runs.run import Run, RunSpec, RunState
from trainer_service.runs.store import RunStore
from trainer_service.training.checkpoint import has_checkpoints, leave_newest, remove_unfinished
from trainer_service.training.chunk import Which
from trainer_service.training.folder import Folder
from trainer_service.training.spec import TrainingSpec
from trainer_service.workers.checkpointer import last_checkpoint

log = logging.getLogger(__name__)


class Retention:
    """Manages the checkpoints of ended runs. Thread-safe."""

    def __init__(self, store: RunStore, folder: Folder) -> None:
        """Manage the checkpoints in `folder`, one folder per run; the caller closes `store`."""
        self._store = store
        self._folder = folder
        self._loading = threading.Lock()
        """Limits memory to one loaded checkpoint, which is four times its child."""

    def sweep(self) -> None:
        """Remove leftovers of a kill: unfinished checkpoints, and those of runs that keep none.

        Call it before processes are started, while holding the run store: then nobody writes here.
        """
        for name in self._folder.folders():
            run = self._store.find(name)
            if run is None or (run.state.is_final and not run.is_kept):
                self._folder.folder(name).remove_all()
            else:
                remove_unfinished(self._folder.folder(name))

    def clean_up(self, run: Run) -> None:
        """Remove the checkpoints of an ended run, except the newest of one that keeps it."""
        if run.is_kept:
            leave_newest(self._folder.folder(run.id))
        else:
            self._folder.folder(run.id).remove_all()

    def discard(self, run: Run) -> None:
        """Remove a run's checkpoint; no-op if there is none.

        Raises:
            FailedPrecondition: the run has not ended, or an unfinished run continues from it.
        """
        if not run.state.is_final:
            raise errors.FailedPrecondition(
                f"run {run.id!r} is {run.state}; cancel it, or wait for its end"
            )
        if (child := self._store.find_unended_child(run.id)) is not None:
            text = f"run {child!r} continues from {run.id!r}; cancel it, or wait for its end"
            raise errors.FailedPrecondition(text)
        self._folder.folder(run.id).remove_all()
        log.info("run %s: checkpoint discarded", run.id, extra={"run": run.id})

    def inherited_chunks(self, spec: RunSpec) -> int:
        """Return the number of chunks that a run's parent has trained; 0 without a parent.

        Raises:
            NotFound: there is no such parent.
            FailedPrecondition: the parent has no checkpoint.
            InvalidArgument: the run cannot continue from it.
            Unavailable: the checkpoints cannot be read.
        """
        if not spec.parent:
            return 0
        parent = self._store.find(spec.parent)
        if parent is None:
            raise errors.NotFound(
                f"no run {quoted(spec.parent)} to continue from; name one that kept its checkpoint"
            )
        with _reading():
            if (why := self._missing(parent)) is not None:
                raise errors.FailedPrecondition(f"run {parent.id!r} {why}")
        with errors.within("spec."):
            _check_continues(spec.training, parent)
        return parent.trained_chunks

    def weights(self, run: Run, which: Which) -> bytes:
        """Return a run's weights in the format of `child_file`.

        Raises:
            FailedPrecondition: the run has no checkpoint.
            Unavailable: the checkpoints cannot be read.
        """
        # Imported here: torchvision takes longer than all other imports of a service.
        from trainer_service.training.child.inputs import Inputs
        from trainer_service.training.child_file import child_file

        with self._loading, _reading():
            content = self._content(run)
            assert run.result is not None, "a run that succeeded has one"
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
            raise errors.FailedPrecondition(f"run {run.id!r} {why}")
        content = last_checkpoint(run, self._folder)
        if content is None:
            text = "its checkpoint is damaged; see the service's log"
            raise errors.FailedPrecondition(f"run {run.id!r}: {text}")
        return content

    def _missing(self, run: Run) -> str | None:
        """Return why a run has no checkpoint; None if it has one."""
        if not run.state.is_final:
            return f"is {run.state}; its checkpoint is available once it has succeeded"
        if run.state is not RunState.SUCCEEDED:
            return f"is {run.state}; only a run that succeeds keeps its checkpoint"
        if not run.spec.keep:
            return "was submitted without `keep`; submit it with `keep`, under another id"
        if not run.is_kept:
            return f"kept no checkpoint: {run.cause}"
        if not has_checkpoints(self._folder.folder(run.id)):
            return "has no checkpoint any more: it was discarded"
        return None


@contextmanager
def _reading() -> Iterator[None]:
    """Turn an OSError into Unavailable."""
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(f"checkpoints cannot be read: {error}") from error


def _check_continues(spec: TrainingSpec, parent: Run) -> None:
    """Raise InvalidArgument for fields that must be the parent's, or a length that adds nothing."""
    before = parent.spec.training
    # Where the loss trains a strength, its value is the initial one of the whole training.
    own = {"chunks", "epochs"} | (set() if spec.regularizer.is_trained else {"values"})
    violations = [
        errors.FieldViolation(
            field.name, f"must be as the parent's, {getattr(before, field.name)!s}"
        )
        for field in fields(TrainingSpec)
        if field.name not in own and getattr(spec, field.name) != getattr(before, field.name)
    ]
    least = parent.trained_chunks + 1
    if spec.chunks is None or spec.chunks < least:
        text = f"must be at least {least}: they count on from the parent's {parent.trained_chunks}"
        violations.append(errors.FieldViolation("chunks", text))
    if violations:
        raise errors.InvalidArgument(*violations)
