"""The metrics page does not grow with runs that ended and controllers that were deleted."""

import asyncio
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from agent_service.client import AgentClient, RandomSettings
from agent_service.domain.runs import FinishRun, Mode, Outcome, StartRun
from agent_service.domain.store import Durability
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.metrics.stored import StoreCollector
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.journal.journal import LoopJournal
from agent_service.store.store import SqlStore
from tests.agent_service.calls import train
from tests.agent_service.specs import spec
from tests.given import ServedAgent

RUNS, AT_ONCE = 1000, 250


def series(registry: CollectorRegistry) -> int:
    return sum(not line.startswith(b"#") for line in generate_latest(registry).splitlines())


async def start(run_service: RunService, run_ids: list[str]) -> None:
    starts = [StartRun(controller="c", run_id=run_id, labels={}) for run_id in run_ids]
    futures: Any = [run_service.start_run(start) for start in starts]
    await asyncio.gather(*futures)


async def finish(run_service: RunService, run_ids: list[str]) -> None:
    ends = [FinishRun(run_id=run_id, outcome=Outcome.TERMINATED) for run_id in run_ids]
    futures: Any = [run_service.finish_run(end) for end in ends]
    await asyncio.gather(*futures)


def test_a_thousand_runs_leave_the_page_as_small_as_before(tmp_path: Path) -> None:
    """Each has gauges while it is active; then there are as many series as after the first one."""
    registry = CollectorRegistry()
    metrics = DecisionMetrics(registry)
    url = f"sqlite:///{tmp_path / 'agent.db'}"

    async def live() -> list[int]:
        """Return the number of series before, each time that runs are active, and after."""
        sizes: list[int] = []
        with SqlStore(url, durability=Durability.PROCESS, journal=LoopJournal) as store:
            registry.register(StoreCollector(store, metrics))
            made: Any = Catalog(store).create_controller(
                spec(algorithm=RandomSettings()), Mode.LEARNING
            )
            await made
            run_service = RunService(store, metrics=metrics)
            await start(run_service, ["first"])
            await finish(run_service, ["first"])
            sizes.append(series(registry))
            for first in range(0, RUNS, AT_ONCE):
                run_ids = [f"run-{number}" for number in range(first, first + AT_ONCE)]
                await start(run_service, run_ids)
                sizes.append(series(registry))
                await finish(run_service, run_ids)
            sizes.append(series(registry))
        return sizes

    before, *active, after = asyncio.run(live())

    assert active == [before + AT_ONCE] * (RUNS // AT_ONCE)
    assert after == before


def test_a_deleted_controller_goes_from_the_page(served: ServedAgent, client: AgentClient) -> None:
    """All of its series, what was counted of it too; the others keep theirs."""
    for name in ("gone", "kept"):
        client.create_controller(spec(name))
        train(client, name)

    client.delete_controller("gone")

    # What is observed is shown before the store is read, so it goes with the scrape after.
    generate_latest(served.registry)
    page = generate_latest(served.registry).decode()
    assert 'controller="gone"' not in page
    assert 'agent_decisions_total{controller="kept",mode="learning"} 2.0' in page
