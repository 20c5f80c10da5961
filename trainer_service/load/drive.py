"""One process of the load: it steers its share of simulated children, and notes what calls take.

Reports come by the clock where a rate is asked for: a late answer delays no other report, and a
report's time counts from when it was due, so that a service that hangs is not measured less.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from agent_service.client import AgentClient, FleetReport, ReportStream, Run, Scores
from agent_service.domain.errors import AgentError
from agent_service.serving.access import Access
from trainer_service.simulation.child import SimulatedChild

CALLERS = 16
"""Threads of a process that call at once."""
GRACE_SECONDS = 30.0
"""For how much longer than asked for reports are made that were due in time."""
TELL_SECONDS = 0.5
"""Between two words on how far a process is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process does."""

    agent: str
    """HOST:PORT."""
    access: Access
    controller: str
    hyperparameter: str
    """Of that controller: the simulated child's drop rate."""
    runs: int
    """Live runs."""
    chunks: int
    """Of a run; one that ends makes room for a new one."""
    rate: float | None
    """Reports a second; None for as many as it can."""
    seconds: float
    over_streams: bool
    """Whether each caller's reports go over one stream, as a fleet's do; else each is a call."""
    prefix: str
    """Of its run ids."""


@dataclass(slots=True, kw_only=True)
class Noted:
    """What a process saw while it reported."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each answered report."""
    seconds: float = 0.0
    """From the first report to the last answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """By kind: those that the client's retries did not mend."""
    behind: Counter[int] = field(default_factory=Counter)
    """Answers by how many policy versions they were decided behind the newest that was seen."""


class _Steered:
    """A simulated child under the agent."""

    def __init__(self, client: AgentClient, share: Share, number: int) -> None:
        self._client = client
        self._share = share
        self._ids = (f"{share.prefix}-{number}-{n}" for n in itertools.count())
        self._seed = number
        self._begin()

    def _begin(self) -> None:
        share = self._share
        self._child = SimulatedChild(chunks=share.chunks, chunk_size=20, seed=self._seed)
        self._run: Run = self._client.run(
            share.controller,
            run_id=next(self._ids),
            planned_chunks=share.chunks,
            when_away=None,  # what is held would not be measured
        )

    def report(self, stream: ReportStream) -> int:
        """Train and report a chunk; return the policy version that decided what comes next.

        Raises AgentError where the report was not taken.
        """
        chunk = self._child.step(self._run.hyperparameters[self._share.hyperparameter])
        losses = chunk.losses.tolist()
        scores = Scores(training=chunk.training_score, validation=chunk.validation_score)
        if self._share.over_streams:
            (error,) = stream.report([FleetReport(run=self._run, losses=losses, feedback=scores)])
            if error is not None:
                raise error
        else:
            self._run.report_chunk(
                losses, training_score=scores.training, validation_score=scores.validation
            )
        return self._run.action.policy_version

    def renew(self) -> None:
        """Finish the run, and begin another, where its chunks are trained."""
        if self._child.finished:
            self._run.finish()
            self._begin()

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


def drive(share: Share, pipe: Connection) -> None:
    """Start the share's runs, wait for a word, report until the time is up; the process's main.

    Sent over the pipe: how many runs are started, again and again; after a word from there how
    many reports are answered, again and again, then what was noted; at last how many runs are
    finished, again and again. Or an AgentError, and nothing more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this to decide
    try:
        access = share.access
        with AgentClient(share.agent, tls=access.tls, token=access.token) as client:
            steered = _started(client, share, pipe)
            pipe.recv()
            pipe.send(_report(client, steered, share, pipe))
            _for_each_place(lambda place: steered[place].finish(), len(steered), pipe)
    except AgentError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(AgentError(f"a process of the load failed: {error!r}"))


def _started(client: AgentClient, share: Share, pipe: Connection) -> list[_Steered]:
    steered: dict[int, _Steered] = {}

    def start(place: int) -> None:
        steered[place] = _Steered(client, share, place)

    _for_each_place(start, share.runs, pipe)
    return [steered[place] for place in range(share.runs)]


def _for_each_place(work: Callable[[int], object], count: int, pipe: Connection) -> None:
    """Do work on places 0 to count - 1 in CALLERS threads, and send how many are done.

    Raises the first error of any.
    """
    errors: list[BaseException] = []
    done = itertools.count(1)
    lock = threading.Lock()

    def part(first: int) -> None:
        try:
            for place in range(first, count, CALLERS):
                work(place)
                with lock:  # of the pipe, too
                    number = next(done)
                    if number % 50 == 0 or number == count:
                        pipe.send(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=part, args=(n,)) for n in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _report(client: AgentClient, steered: list[_Steered], share: Share, pipe: Connection) -> Noted:
    """Report until the time is up, each caller the children that are its own."""
    noted = Noted()
    newest = 0
    lock = threading.Lock()
    begun = last_answer = time.perf_counter()

    def call(places: range) -> None:
        turns = zip(itertools.cycle(places), _due(share, begun, places), strict=False)
        with client.report_stream() as stream:
            for place, due in turns:
                report(steered[place], due, stream)

    def report(child: _Steered, due: float, stream: ReportStream) -> None:
        nonlocal newest, last_answer
        try:
            version = child.report(stream)
            answered = time.perf_counter()
            child.renew()
        except AgentError as error:
            with lock:
                noted.errors[type(error).__name__] += 1
            return
        with lock:
            newest = max(newest, version)
            last_answer = max(last_answer, answered)
            noted.latencies.append(answered - due)
            noted.behind[newest - version] += 1

    pool = ThreadPoolExecutor(CALLERS)  # not waited for where one fails: that is told at once
    parts = range(min(CALLERS, len(steered)))
    calling = {pool.submit(call, range(n, len(steered), CALLERS)) for n in parts}
    while calling:
        done, calling = wait(calling, TELL_SECONDS)
        for part in done:
            part.result()
        pipe.send(len(noted.latencies))
    noted.seconds = last_answer - begun
    return noted


def _due(share: Share, begun: float, places: range) -> Iterator[float]:
    """Yield when each report of a caller is due, and wait until then; ends with the time."""
    callers = min(CALLERS, share.runs)
    for number in itertools.count():
        now = time.perf_counter()
        # The callers of a process take turns.
        turn = number * callers + places.start
        due = now if share.rate is None else begun + turn / share.rate
        if due - begun >= share.seconds or now - begun >= share.seconds + GRACE_SECONDS:
            return
        time.sleep(max(0.0, due - now))
        yield due
