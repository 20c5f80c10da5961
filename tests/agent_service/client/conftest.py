from collections.abc import Iterator

import pytest

from agent_service.client import AgentClient, delivery
from tests.agent_service.client.network import Network
from tests.agent_service.specs import spec
from tests.given import ServedAgent


@pytest.fixture
def client(client: AgentClient) -> AgentClient:
    """Of an agent with controller `c`."""
    client.create_controller(spec())
    return client


@pytest.fixture
def agent(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Network]:
    """An agent with controller `c` that can go away; clients probe it at every report then."""
    monkeypatch.setattr(delivery, "SHORTEST_WAIT", 0.0)
    with Network(served.address) as network:
        yield network
