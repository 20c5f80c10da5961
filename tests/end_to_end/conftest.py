from collections.abc import Iterator

import pytest

from agent_service.client import AgentClient
from agent_service.domain.runs import Mode
from tests.end_to_end.processes import AgentProcess
from tests.end_to_end.runs import controller
from tests.given import ServedTrainer


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent with default options, for tests that leave it running.

    It has a frozen controller, `rd`, which decides the same however often it is asked.
    """
    with AgentProcess(tmp_path_factory.mktemp("agent") / "agent.db") as agent:
        with AgentClient(agent.address, budget_seconds=60) as client:
            client.create_controller(controller("rd"), Mode.FROZEN)
        yield agent


@pytest.fixture(scope="session")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, agent: AgentProcess
) -> Iterator[ServedTrainer]:
    """A trainer that asks it, for tests that leave it running and idle.

    Its runs keep a checkpoint at each chunk, and are shown in TensorBoard.
    """
    folder = tmp_path_factory.mktemp("trainer")
    board = folder / "board"
    with ServedTrainer(
        folder, agent=agent.address, checkpoint_seconds=0.0, tensorboard=board
    ) as trainer:
        yield trainer
