"""Drives simulated children against an agent service from several processes, and sums up."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import numpy as np

from agent_service.domain.errors import AgentError
from trainer_service.load.drive import Noted, Share, drive
from trainer_service.load.watch import Watch

Told = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a load came to."""

    controller: str
    """That decided, and learned."""
    live_runs: int
    seconds: float
    """Until the last answer: longer than the load was to be where the service did not keep up."""
    decisions: int
    decisions_per_second: float
    p50: float
    """Seconds of a report, from when it was due to its answer."""
    p99: float
    p999: float
    longest: float
    errors: dict[str, int]
    """Reports that failed for good, by kind."""
    memory: dict[str, int]
    """Largest resident bytes of each process of the service; empty where it is elsewhere."""
    cpu: dict[str, float]
    """Seconds of a processor that each of them used under load; alike."""
    store_growth: int | None
    """Bytes; None where the store is no file of this machine."""
    updates: int
    """Policy versions that came meanwhile."""
    update_lag: float | None
    """Median seconds from when a rollout was full to the policy made of it; None without update."""
    longest_update_lag: float | None
    waiting: int
    """Largest number of transitions that waited for an update, of which one takes `rollout`."""
    rollout: int
    versions_behind: dict[int, int]
    """Answers by how many versions they were decided behind the newest."""


def simulate(share: Share, *, processes: int, told: Told) -> Outcome:
    """Drive a load; `share` is all of it.

    Args:
        share: runs and rate of all processes together.
        processes: that load the service, at least 1.
        told: how far it is.

    Raises:
        AgentError: a run could not be started, or a process ended without a word.
    """
    context = multiprocessing.get_context("spawn")
    runs: dict[Connection, int] = {}
    workers = []
    for part in _parts(share, processes):
        ours, theirs = context.Pipe()
        worker = context.Process(target=drive, args=(part, theirs), daemon=True)
        worker.start()
        theirs.close()
        runs[ours] = part.runs
        workers.append(worker)
    try:
        _until_all(runs, lambda count: told("runs started", count, share.runs))
        with Watch(share) as watch:
            for pipe in runs:
                pipe.send(None)
            begun = time.perf_counter()
            noted = _noted(list(runs), share, told, begun)
        _until_all(runs, lambda count: told("runs finished", count, share.runs))
        return _outcome(share, noted, watch)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _parts(share: Share, processes: int) -> list[Share]:
    """Return what each process does: as many runs, and as much of the rate, as each other."""
    counts = [share.runs // processes + (n < share.runs % processes) for n in range(processes)]
    return [
        replace(
            share,
            runs=count,
            rate=None if share.rate is None else share.rate * count / share.runs,
            prefix=f"{share.prefix}-{number}",
        )
        for number, count in enumerate(counts)
        if count
    ]


def _received(pipe: Connection) -> Any:
    """Return what a process sent; raises AgentError where that is one, or it ended."""
    try:
        message = pipe.recv()
    except EOFError:
        raise AgentError("a process of the load ended without a word; see above") from None
    if isinstance(message, AgentError):
        raise message
    return message


def _until_all(goals: Mapping[Connection, int], told: Callable[[int], None]) -> None:
    """Wait until each process has told that it has done as many as its goal."""
    done = dict.fromkeys(goals, 0)
    while unfinished := [pipe for pipe in goals if done[pipe] < goals[pipe]]:
        for pipe in wait(unfinished):
            assert isinstance(pipe, Connection)
            done[pipe] = _received(pipe)
        told(sum(done.values()))


def _noted(pipes: Sequence[Connection], share: Share, told: Told, begun: float) -> list[Noted]:
    """Return what each process noted."""
    noted: dict[Connection, Noted] = {}
    while len(noted) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in noted]):
            assert isinstance(pipe, Connection)
            message = _received(pipe)
            if isinstance(message, Noted):
                noted[pipe] = message
        passed = min(time.perf_counter() - begun, share.seconds)
        told("seconds under load", round(passed), round(share.seconds))
    return list(noted.values())


T = TypeVar("T")


def _sum(counters: Sequence[Counter[T]]) -> dict[T, int]:
    total: Counter[T] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items(), key=lambda item: str(item[0])))


def _outcome(share: Share, noted: Sequence[Noted], watch: Watch) -> Outcome:
    latencies = np.concatenate([n.latencies for n in noted]) if noted else np.zeros(0)
    if not len(latencies):
        raise AgentError(f"no report was answered in {share.seconds:g} s")
    lags = watch.lag.seconds
    seconds = max(share.seconds, *(n.seconds for n in noted))
    p50, p99, p999 = np.quantile(latencies, (0.5, 0.99, 0.999))
    return Outcome(
        controller=share.controller,
        live_runs=share.runs,
        seconds=seconds,
        decisions=len(latencies),
        decisions_per_second=len(latencies) / seconds,
        p50=float(p50),
        p99=float(p99),
        p999=float(p999),
        longest=float(latencies.max()),
        errors=_sum([n.errors for n in noted]),
        memory=watch.memory,
        cpu=watch.cpu,
        store_growth=watch.store[-1] - watch.store[0] if watch.store else None,
        updates=watch.updates,
        update_lag=statistics.median(lags) if lags else None,
        longest_update_lag=max(lags, default=None),
        waiting=watch.waiting,
        rollout=watch.rollout,
        versions_behind=_sum([n.behind for n in noted]),
    )
