"""What becomes of a process of runs: what it tells is passed on, until each run has left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer_service.run import RunState, StateChanged, What
from trainer_service.workers.executor import Process


def follow(
    process: Process,
    run_ids: Sequence[str],
    happened: Callable[[str, What], None],
    left: Callable[[str, StateChanged], None],
    *,
    stall_seconds: float,
) -> None:
    """Pass on what happens until the process is gone.

    Args:
        process: which nobody else follows.
        run_ids: of the runs that it trains.
        happened: told what happens in a run.
        left: told, once a run, the state that the process left it in: QUEUED where it should
            go on, with the cause if something is wrong.
        stall_seconds: a process that tells nothing for so long is killed.
    """
    silent, is_stalled = _hear_all(process, run_ids, happened, left, stall_seconds)
    end = process.end(stall_seconds)
    if is_stalled:
        cause = f"it made no progress for {stall_seconds:g} s"
        end = StateChanged(state=RunState.QUEUED, cause=cause)
    for run_id in silent:
        left(run_id, end)


def _hear_all(
    process: Process,
    run_ids: Sequence[str],
    happened: Callable[[str, What], None],
    left: Callable[[str, StateChanged], None],
    stall_seconds: float,
) -> tuple[Sequence[str], bool]:
    """Hear until all have left; return who told no end, and whether the process was killed."""
    training = set(run_ids)
    ends: dict[str, StateChanged] = {}
    silent: list[str] = []
    is_stalled = False
    while training:
        told = process.hear(stall_seconds)
        if not told:
            is_stalled = True
            process.kill()
        for run_id, what in told:
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
