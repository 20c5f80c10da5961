"""Live progress of a study: a bar for each method in a terminal, a line for each run elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer_service.runs.run import ChunkTrained, Event, Finished, Planned, StateChanged
from trainer_service.study.methods.plan import Key


class Whole(NamedTuple):
    """The suite that a study is of."""

    runs: float
    """Runs of all its problems that are trained, in parts too."""
    planned: int
    words: str
    """Which problem this is, and the time left."""


class StudyProgress:
    """Shows methods, and of each the loss, scores and values of the chunk that came last.

    Thread-safe; a context manager.
    """

    def __init__(
        self,
        console: Console,
        planned: Mapping[str, tuple[str, int]],
        *,
        whole: Callable[[float], Whole] | None = None,
    ) -> None:
        """Show all methods, given label and number of runs of each name, from the beginning.

        Of a suite there is a bar, too: `whole` is told how many runs of this study are trained.
        """
        self._console = console
        self._whole = whole
        self._lock = threading.Lock()
        self._bars = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} runs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        if whole is not None:
            now = whole(0)
            self._all = self._bars.add_task("all problems", total=now.planned, last=now.words)
            self._bars.update(self._all, completed=now.runs)
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(label, total=total, start=False, last="")
            for name, (label, total) in planned.items()
        }
        self._shares: dict[str, dict[Key, float]] = {name: {} for name in planned}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def checking(self, address: str, *, ahead: int) -> None:
        """A trainer service was given its check, which waits behind so many runs there."""
        waits = f", behind {ahead} runs that wait or train there" if ahead else ""
        self._console.print(f"checking on {address}{waits}", highlight=False, soft_wrap=True)

    def trained(self, key: Key, trained: ChunkTrained, planned: int) -> None:
        """A chunk of a run was trained."""
        self._advance(key, trained.chunk.index / planned, _chunk_words(trained))

    def finished(self, key: Key, finished: Finished) -> None:
        """A run ended, now or before."""
        scores = finished.scores
        last = (
            f"{key.phase} {key.index}: test F1 {scores.test_score_best:.3f} "
            f"(last {scores.test_score_last:.3f})"
        )
        self._advance(key, 1.0, last)
        if not self._console.is_terminal:
            self._console.print(
                f"{key.method:<20} {last} {finished.seconds:.0f} s", highlight=False
            )

    def _advance(self, key: Key, share: float, last: str) -> None:
        task = self._tasks[key.method]
        with self._lock:
            shares = self._shares[key.method]
            shares[key] = share
            total = sum(shares.values())
            if self._whole is not None:
                now = self._whole(sum(sum(s.values()) for s in self._shares.values()))
                self._bars.update(self._all, completed=now.runs, last=now.words)
        self._bars.start_task(task)
        self._bars.update(task, completed=total, last=last)


class RunProgress:
    """Shows one run: a bar of its chunks in a terminal, a line for each event elsewhere.

    A context manager.
    """

    def __init__(self, console: Console, run_id: str) -> None:
        """Show the run, of which nothing is known yet."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("chunks"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(run_id, total=None, last="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def happened(self, event: Event) -> None:
        """Show an event; in a terminal, chunks move the bar and all others are lines above it."""
        match event.what:
            case ChunkTrained() as trained if self._console.is_terminal:
                self._bar.update(
                    self._task, completed=trained.chunk.index, last=_chunk_words(trained)
                )
                return
            case Planned(chunks=chunks):
                self._bar.update(self._task, total=chunks)
        self._console.print(event_line(event), highlight=False, markup=False, soft_wrap=True)


def event_line(event: Event) -> str:
    """Return one event in words."""
    match event.what:
        case StateChanged(state=state, cause=cause):
            return f"{state} {cause}".rstrip()
        case Planned(chunks=chunks):
            return f"{chunks} chunks planned"
        case ChunkTrained() as trained:
            return f"chunk {trained.chunk.index}: {_chunk_words(trained)}"
        case Finished(scores=scores):
            return f"test F1 {scores.test_score_best:.3f} (last {scores.test_score_last:.3f})"


def _chunk_words(trained: ChunkTrained) -> str:
    chunk = trained.chunk
    values = " ".join(f"{name}={value:.2f}" for name, value in chunk.values.items())
    loss = sum(chunk.losses) / len(chunk.losses)
    scores = f"F1 train {chunk.training_score:.2f} val {chunk.validation_score:.2f}"
    return f"loss {loss:.3f}  {scores}  {values}".rstrip()
