"""Load on an agent service by simulated children, many at once, from processes of their own.

Reports come by the clock where a rate is asked for: a late answer delays no other report, and a
report's time counts from when it was due, so that a service that hangs is not measured less.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np

from agent_service.client import AgentClient, FleetReport, ReportStream, Run, Scores
from agent_service.domain.errors import AgentError
from tests.benchmarks.bench_agent import DROPOUT
from trainer_service.simulation.child import SimulatedChild

PROCESSES = 2
CALLERS = 16
"""Threads of a process that call at once."""
GRACE_SECONDS = 30.0
"""For how much longer than asked for reports are made that were due in time."""
START_SECONDS = 300.0
"""For how long all runs may take to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load of a service, or one process's part of it."""

    agent: str
    """HOST:PORT, or several behind `ipv4:`."""
    controller: str
    """With the drop rate that `bench_agent` has, and chunks of 20."""
    runs: int
    """Live runs."""
    seconds: float
    """Under load, after all runs are started."""
    rate: float | None = None
    """Reports a second; None for as many as it can."""
    chunks: int = 100
    """Of a run; one that ends makes room for a new one."""
    over_streams: bool = False
    """Whether each caller's reports go over one stream, as a fleet's do; else each is a call."""
    prefix: str = ""
    """Of the run ids."""


@dataclass(slots=True, kw_only=True)
class Noted:
    """The latencies and errors that processes saw while they reported."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each answered report, from when it was due to its answer."""
    seconds: float = 0.0
    """Until the last answer: longer than the load was to be where the service did not keep up."""
    errors: Counter[str] = field(default_factory=Counter)
    """By kind: those that the client's retries did not mend."""

    @property
    def decisions_per_second(self) -> float:
        """Answered reports, by the time until the last of them."""
        return len(self.latencies) / self.seconds

    def quantile(self, q: float) -> float:
        """Return within how many seconds a share of the reports was answered."""
        return float(np.quantile(self.latencies, q))


def simulate(load: Load, *, begun: Callable[[], None] = lambda: None) -> Noted:
    """Drive a load, and return what all processes noted; the runs stay as they are then.

    Args:
        load: of all processes together.
        begun: called once all runs are started.

    Raises:
        AgentError: a run could not be started.
    """
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(PROCESSES, context) as pool:
        started = manager.Barrier(PROCESSES + 1)
        found = [pool.submit(_drive, part, started) for part in _parts(load)]
        with suppress(threading.BrokenBarrierError):
            started.wait(START_SECONDS)
            begun()
        noted = [one.result() for one in found]
    return Noted(
        latencies=[seconds for one in noted for seconds in one.latencies],
        seconds=max(load.seconds, *(one.seconds for one in noted)),
        errors=sum((one.errors for one in noted), Counter()),
    )


def _parts(load: Load) -> list[Load]:
    """Return what each process does: as many runs, and as much of the rate, as each other."""
    counts = [load.runs // PROCESSES + (n < load.runs % PROCESSES) for n in range(PROCESSES)]
    return [
        replace(
            load,
            runs=count,
            rate=load.rate and load.rate * count / load.runs,
            prefix=f"{load.controller}-{number}",
        )
        for number, count in enumerate(counts)
    ]


def _drive(load: Load, started: threading.Barrier) -> Noted:
    """Start the runs, wait for the other processes, and report until the time is up."""
    try:
        with AgentClient(load.agent) as client, ThreadPoolExecutor(CALLERS) as pool:
            children = list(pool.map(lambda n: _Child(client, load, n), range(load.runs)))
            started.wait(START_SECONDS)
            return _report(client, children, load)
    except BaseException:
        started.abort()
        raise


class _Child:
    """A simulated child under the agent."""

    def __init__(self, client: AgentClient, load: Load, number: int) -> None:
        self._client = client
        self._load = load
        self._ids = (f"{load.prefix}-{number}-{n}" for n in itertools.count())
        self._seed = number
        self._begin()

    def _begin(self) -> None:
        self._child = SimulatedChild(chunks=self._load.chunks, chunk_size=20, seed=self._seed)
        self._run: Run = self._client.run(
            self._load.controller,
            run_id=next(self._ids),
            when_away=None,  # what is held would not be measured
        )

    def report(self, stream: ReportStream) -> None:
        """Train and report a chunk; raises AgentError where the report was not taken."""
        chunk = self._child.step(self._run.hyperparameters[DROPOUT.name])
        losses = chunk.losses.tolist()
        scores = Scores(training=chunk.training_score, validation=chunk.validation_score)
        if self._load.over_streams:
            (error,) = stream.report([FleetReport(run=self._run, losses=losses, feedback=scores)])
            if error is not None:
                raise error
        else:
            self._run.report_chunk(
                losses, training_score=scores.training, validation_score=scores.validation
            )

    def renew(self) -> None:
        """Finish the run, and begin another, where its chunks are trained."""
        if self._child.finished:
            self._run.finish()
            self._begin()


def _report(client: AgentClient, children: Sequence[_Child], load: Load) -> Noted:
    """Report until the time is up, each caller the children that are its own."""
    noted = Noted()
    lock = threading.Lock()
    begun = time.perf_counter()

    def call(places: range) -> None:
        turns = zip(itertools.cycle(places), _due(load, begun, places), strict=False)
        with client.report_stream() as stream:
            for place, due in turns:
                report(children[place], due, stream)

    def report(child: _Child, due: float, stream: ReportStream) -> None:
        try:
            child.report(stream)
            answered = time.perf_counter()
            child.renew()
        except AgentError as error:
            with lock:
                noted.errors[type(error).__name__] += 1
            return
        with lock:
            noted.seconds = max(noted.seconds, answered - begun)
            noted.latencies.append(answered - due)

    callers = range(min(CALLERS, load.runs))
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, [range(n, load.runs, CALLERS) for n in callers]))
    return noted


def _due(load: Load, begun: float, places: range) -> Iterator[float]:
    """Yield when each report of a caller is due, and wait until then; ends with the time."""
    callers = min(CALLERS, load.runs)
    for number in itertools.count():
        now = time.perf_counter()
        # The callers of a process take turns.
        turn = number * callers + places.start
        due = now if load.rate is None else begun + turn / load.rate
        if due - begun >= load.seconds or now - begun >= load.seconds + GRACE_SECONDS:
            return
        time.sleep(max(0.0, due - now))
        yield due
