"""The client for asyncio says and does what the other one does."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import AgentClient, AsyncAgentClient, Run
from agent_service.client.asynchronous import AsyncRun
from agent_service.domain.errors import NotFound
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent

OF_THREADS = {"report_stream", "follow_transitions", "request", "send", "take"}
"""What has no counterpart: fleets, endless followers, and what the package itself calls."""


@pytest.mark.parametrize(("plain", "awaited"), [(AgentClient, AsyncAgentClient), (Run, AsyncRun)])
def test_names_and_parameters_are_the_same(plain: type, awaited: type) -> None:
    """Every public method of the one is one of the other, with the same parameters."""
    for name, method in inspect.getmembers(plain, inspect.isfunction):
        if name.startswith("_") or name in OF_THREADS:
            continue
        counterpart = getattr(awaited, name)
        given = inspect.signature(method).parameters
        taken = inspect.signature(counterpart).parameters
        has_options = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        assert has_options or list(taken) == list(given), name


def test_attributes_are_the_same(served: ServedAgent, client: AgentClient) -> None:
    """Every public attribute of a run is one of the awaited run, with the same value."""
    client.create_controller(spec())
    with client.run("c") as run:
        for name, value in inspect.getmembers(run):
            if not name.startswith("_") and not callable(value):
                assert getattr(AsyncRun(run), name) == value, name


def test_an_agent_of_its_own_has_one_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is closed with it."""
    made: list[AgentClient] = []
    actual = AgentClient.__init__

    def noted(client: AgentClient, *arguments: Any, **options: Any) -> None:
        made.append(client)
        actual(client, *arguments, **options)

    monkeypatch.setattr(AgentClient, "__init__", noted)

    async def main() -> None:
        async with await AsyncAgentClient.local(f"sqlite:///{tmp_path}/agent.db") as agent:
            await agent.create_controller(spec())

    asyncio.run(main())

    assert [client._calls.is_closed for client in made] == [True]


def test_runs_side_by_side_in_one_loop(served: ServedAgent) -> None:
    """Twenty runs report at once, and each is finished; errors are the same."""

    async def train(agent: AsyncAgentClient, number: int) -> None:
        async with await agent.run("c", run_id=f"r{number}") as run:
            for _ in range(3):
                for _ in range(4):
                    run.step(1.0, score=0.5)
                assert run.chunk_full
                values = await run.report(0.5)
                assert values == run.hyperparameters

    async def main() -> None:
        async with AsyncAgentClient(served.address, budget_seconds=5) as agent:
            await agent.wait_ready(5)
            await agent.create_controller(spec())
            await asyncio.gather(*(train(agent, number) for number in range(20)))
            runs = [run async for run in agent.list_runs()]
            log = [t async for t in agent.transitions()]
            assert len(runs) == 20
            assert {run.outcome for run in runs} == {pb.OUTCOME_TERMINATED}
            assert len(log) == 60
            assert len((await agent.schedule("r7")).values) == 3
            assert [c.spec.name async for c in agent.list_controllers()] == ["c"]
            with pytest.raises(NotFound):
                await agent.get_run("nobody")

    asyncio.run(main())
