from collections.abc import Iterator

import pytest

from agent_service.client import AgentClient
from agent_service.domain.runs import Mode
from tests.end_to_end.processes import AgentProcess, TrainerProcess
from tests.end_to_end.trainer_kills import controller
from trainer_service.training.spec import Method


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent with default options, for tests that leave it running."""
    with AgentProcess(tmp_path_factory.mktemp("agent") / "agent.db") as agent:
        yield agent


@pytest.fixture(scope="session")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, agent: AgentProcess
) -> Iterator[TrainerProcess]:
    """A trainer with default options that asks it, for tests that leave it running and idle."""
    with TrainerProcess(tmp_path_factory.mktemp("trainer"), agent=agent.address) as trainer:
        yield trainer


@pytest.fixture(scope="session")
def frozen_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent with one frozen controller, `rd`: it decides the same however often it is asked."""
    with AgentProcess(tmp_path_factory.mktemp("agent") / "agent.db") as agent:
        with AgentClient(agent.address, budget_seconds=60) as client:
            client.create_controller(controller(Method.RD), Mode.FROZEN)
        yield agent
