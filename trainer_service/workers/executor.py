"""Port for placing run processes, locally or on Ray; the queue owns the runs' lifecycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from trainer_service.runs.run import EventContent, Run, StateChanged


class Process(Protocol):
    """A process that trains runs. One thread receives its events; any thread may send requests."""

    def receive(self, seconds: float) -> Sequence[tuple[str, EventContent | None]]:
        """Wait for events and return them by run id; None means that the run has left for good.

        Args:
            seconds: longest wait; the result is empty if nothing arrived by then.
        """
        ...

    def acknowledge(self, run_id: str) -> None:
        """Confirm that a run's last event is stored; the run sends no other event before that."""
        ...

    def cancel(self, run_id: str) -> None:
        """Request the end of a run: at once if it trains alone, else at the end of its chunk."""
        ...

    def preempt(self) -> None:
        """Request a checkpoint of each run at the end of its chunk, then the process's end."""
        ...

    def kill(self) -> None:
        """End the process at once; no-op if it has ended."""
        ...

    def join(self, seconds: float) -> StateChanged:
        """Wait for the process's end, once all its runs have left.

        Args:
            seconds: longest wait; the process is killed after it.

        Returns:
            The new state of a run that did not report its end.
        """
        ...


class Executor(Protocol):
    """Starts run processes. Thread-safe; close it once they have ended."""

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> Process:
        """Start a process without waiting for it; if it cannot start, it counts as ended.

        Args:
            runs: one run, or several whose children can be stacked.
            parents: parent runs by id, of the runs that continue from another.
        """
        ...

    def describe(self) -> str:
        """Return a description of the hardware that runs train on."""
        ...

    def close(self) -> None:
        """Release the resources that processes are started with."""
        ...
