"""Port for placing run processes, locally or on Ray, and their supervision for the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from trainer_service.runs.run import EventContent, Run, RunState, StateChanged


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


def supervise(
    process: Process,
    run_ids: Sequence[str],
    happened: Callable[[str, EventContent], None],
    left: Callable[[str, StateChanged], None],
    *,
    stall_seconds: float,
) -> None:
    """Forward events until the process is gone.

    Args:
        process: not supervised by anybody else.
        run_ids: the runs that it trains.
        happened: called with each event of a run.
        left: called once per run with its last state: QUEUED if it should continue, with a cause
            if something is wrong.
        stall_seconds: a process that is silent for this long is killed.
    """
    training = set(run_ids)
    ends: dict[str, StateChanged] = {}
    silent: list[str] = []
    is_stalled = False
    while training:
        received = process.receive(stall_seconds)
        if not received:
            is_stalled = True
            process.kill()
        for run_id, what in received:
            if what is None:
                training.discard(run_id)
                if run_id in ends:
                    left(run_id, ends[run_id])
                else:
                    silent.append(run_id)
            elif isinstance(what, StateChanged) and what.state is not RunState.RUNNING:
                ends[run_id] = what
            else:
                happened(run_id, what)
                process.acknowledge(run_id)
    end = process.join(stall_seconds)
    if is_stalled:
        cause = f"it made no progress for {stall_seconds:g} s"
        end = StateChanged(state=RunState.QUEUED, cause=cause)
    for run_id in silent:
        left(run_id, end)
