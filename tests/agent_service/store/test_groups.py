"""Groups of calls on both stores: one transaction, whatever others did before or do in it."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from agent_service.domain.rewards import Scores
from agent_service.domain.runs import ChunkReport, Decision
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.runs import RunService
from agent_service.store.journal.journal import LoopJournal
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import Trainings

RUNS = [f"r{number}" for number in range(10)]


def run_service_on(store: SqlStore) -> RunService:
    return RunService(store, metrics=DecisionMetrics(CollectorRegistry()))


def begin(url: str) -> None:
    """Make a controller and its runs."""
    with SqlStore(url) as store:
        trainings = Trainings(store)
        trainings.create()
        for run_id in RUNS:
            trainings.start(run_id)


def report(run_id: str, chunk: int) -> ChunkReport:
    scores = Scores(training=0.5, validation=0.5)
    return ChunkReport(run_id=run_id, chunk=chunk, losses=np.full(4, 1.0 / chunk), feedback=scores)


async def outcomes(futures: list[Future[Any]]) -> list[Any]:
    """Return the results of calls that were made together, or their errors."""
    wrapped = [asyncio.wrap_future(future) for future in futures]
    return await asyncio.gather(*wrapped, return_exceptions=True)


def positions(store: SqlStore) -> list[int]:
    return [d.position for _run, d in store.read(lambda s: s.decisions(after=0, limit=10_000))]


def in_groups(url: str, play: Callable[[SqlStore, list[int]], Any]) -> None:
    """Play on a store whose calls meet in an event loop; `play` is given the groups' sizes."""

    async def main() -> None:
        groups: list[int] = []
        with SqlStore(
            url, journal=LoopJournal, observe_commit=lambda _seconds, size: groups.append(size)
        ) as store:
            await play(store, groups)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_another_replica_decided_is_answered_and_the_rest_is_decided(store_url: str) -> None:
    """Half of a group's runs were reported elsewhere meanwhile; each chunk is in the log once."""
    begin(store_url)

    async def play(store: SqlStore, groups: list[int]) -> None:
        run_service = run_service_on(store)
        with SqlStore(store_url) as elsewhere:
            for chunk in range(1, 6):
                others: dict[str, Decision] = {
                    run_id: run_service_on(elsewhere).report_chunk(report(run_id, chunk)).result()
                    for run_id in RUNS[chunk % 2 :: 2]
                }
                told = [run_service.report_chunk(report(run_id, chunk)) for run_id in RUNS]
                answers = dict(zip(RUNS, await outcomes(told), strict=True))
                assert all(answer.chunk == chunk + 1 for answer in answers.values())
                for run_id, decision in others.items():
                    assert answers[run_id].values == decision.values
        assert max(groups) > 1, "calls that come together share a transaction"
        assert positions(store) == list(range(1, 1 + 6 * len(RUNS)))

    in_groups(store_url, play)


def test_a_call_that_the_database_refuses_takes_nothing_of_the_others_with_it(
    store_url: str,
) -> None:
    """A position that is taken: its own call fails, those before and after it are durable."""
    begin(store_url)

    def write_over(session: Session) -> None:
        run = session.find_run(RUNS[0])
        assert run is not None
        decision = session.find_decision(run, 1)
        assert decision is not None
        session.append(run, replace(decision, chunk=100))

    async def play(store: SqlStore, groups: list[int]) -> None:
        run_service = run_service_on(store)
        calls = [run_service.report_chunk(report(run_id, 1)) for run_id in RUNS[:5]]
        refused = store.write(write_over)
        calls += [run_service.report_chunk(report(run_id, 1)) for run_id in RUNS[5:]]
        found = await outcomes([*calls, refused])

        assert [answer.chunk for answer in found[:-1]] == [2] * len(RUNS)
        assert re.search("IntegrityError|UniqueViolation", repr(found[-1].__cause__ or found[-1]))
        assert max(groups) > 1
        assert positions(store) == list(range(1, 1 + 2 * len(RUNS)))

    in_groups(store_url, play)
