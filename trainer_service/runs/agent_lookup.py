"""Checks at submission that a run's controller exists at the agent service."""

from __future__ import annotations

import time

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, NotFound, Unavailable, invalid
from trainer_service.config import TrainerConfig

CONNECT_SECONDS = 1.0
"""Connection timeout of a submission."""
ANSWER_SECONDS = 1.0
"""Timeout of the reply after that: an agent that hangs still accepts connections."""
AWAY_SECONDS = 30.0
"""How long an unavailable agent is not asked again, so that submissions stay quick."""


class AgentLookup:
    """A connection to the agent service. Thread-safe; close it."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect on first use."""
        access = config.agent_access
        self._address = config.agent
        self._client = AgentClient(
            config.agent, budget_seconds=0, tls=access.tls, token=access.token
        )
        self._asks_from = 0.0

    def check_controller(self, name: str) -> None:
        """Check that the agent has a controller named `name`.

        If the agent is unavailable or answers with another error, nothing is raised: the run
        waits for the agent, or fails, when it begins.

        Raises:
            InvalidArgument: the agent has no such controller.
        """
        if time.monotonic() < self._asks_from:
            return
        try:
            self._client.wait_ready(CONNECT_SECONDS)
            self._client.get_controller(name, within=ANSWER_SECONDS)
        except NotFound:
            text = (
                f"{name!r} is not at the agent service, {self._address}; create it there, in "
                f"Python by AgentClient({self._address!r}).create_controller(spec)"
            )
            raise invalid("controller", text) from None
        except Unavailable:
            self._asks_from = time.monotonic() + AWAY_SECONDS
        except AgentError:
            pass

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
