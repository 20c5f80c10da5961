"""The port by which processes of runs are placed somewhere; what a run lives through is not its."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from trainer_service.run import Run, StateChanged, What


class Process(Protocol):
    """A process that trains runs. One thread hears it to its end; any may ask it for something."""

    def hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        """Return what happened in which run, waiting for it; None where a run has left for good.

        Args:
            seconds: how long to wait at the most; empty where nothing was told for so long.
        """
        ...

    def acknowledge(self, run_id: str) -> None:
        """Say that what a run told is stored; it tells nothing more before that."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask it to end a run: at once where it trains alone, else at its chunk's end."""
        ...

    def hand_back(self) -> None:
        """Ask it to keep a checkpoint of each run at its chunk's end, and to end."""
        ...

    def kill(self) -> None:
        """End it at once; nothing where it has ended."""
        ...

    def end(self, seconds: float) -> StateChanged:
        """See it gone, once all of its runs have left.

        Args:
            seconds: after these it is killed.

        Returns:
            What becomes of a run that told no end.
        """
        ...


class Executor(Protocol):
    """Starts processes of runs. Thread-safe; close it once they have ended."""

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> Process:
        """Start a process, without waiting for it; where there is no room for it, it has ended.

        Args:
            runs: one, or several whose children can be stacked.
            parents: of those that go on from another run, by their id.
        """
        ...

    def describe(self) -> str:
        """Return in words what runs train on."""
        ...

    def close(self) -> None:
        """Let go of what processes are started with."""
        ...
