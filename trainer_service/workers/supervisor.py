"""Supervises a process of runs: forwards its events until every run has left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer_service.runs.run import EventContent, RunState, StateChanged
from trainer_service.workers.executor import Process


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
    silent, is_stalled = _receive_all(process, run_ids, happened, left, stall_seconds)
    end = process.join(stall_seconds)
    if is_stalled:
        cause = f"it made no progress for {stall_seconds:g} s"
        end = StateChanged(state=RunState.QUEUED, cause=cause)
    for run_id in silent:
        left(run_id, end)


def _receive_all(
    process: Process,
    run_ids: Sequence[str],
    happened: Callable[[str, EventContent], None],
    left: Callable[[str, StateChanged], None],
    stall_seconds: float,
) -> tuple[Sequence[str], bool]:
    """Receive until all runs have left.

    Returns:
        The runs that did not report their end, and whether the process was killed.
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
    return silent, is_stalled
