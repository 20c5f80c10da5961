"""What the commands that ask a running agent service have in common: where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent_service.config import AgentConfig

if TYPE_CHECKING:
    from agent_service.client import AgentClient

agent_option = click.option(
    "--agent", default=AgentConfig().listen, help="HOST:PORT of the service."
)


def connect(address: str) -> AgentClient:
    """Return a client for one command, which a person waits for."""
    # Imported here, since gRPC reads its settings from the environment when it is imported.
    from agent_service.client import AgentClient

    return AgentClient(address, budget_seconds=5)
