"""Asks the agent service, as a run is submitted, whether the controller that it names is there."""

from __future__ import annotations

import time

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, NotFound, Unavailable, invalid
from trainer_service.config import TrainerConfig

CONNECT_SECONDS = 1.0
"""How long a submission waits for a connection to the agent."""
ANSWER_SECONDS = 1.0
"""How long it then waits for the answer: an agent that hangs keeps its connections."""
AWAY_SECONDS = 30.0
"""For how long an agent that was away is not asked again, so that submissions stay quick."""


class AgentLookup:
    """A connection to the agent of a trainer service's runs. Thread-safe; close it."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect when first asked."""
        access = config.agent_access
        self._address = config.agent
        self._client = AgentClient(
            config.agent, budget_seconds=0, tls=access.tls, token=access.token
        )
        self._asks_from = 0.0

    def check_controller(self, name: str) -> None:
        """Check that the agent has a controller of this name.

        An agent that is away, or does not say, refuses nothing: the run waits for it, or fails
        with its answer, when it begins.

        Raises:
            InvalidArgument: it has none.
        """
        if time.monotonic() < self._asks_from:
            return
        try:
            self._client.wait_ready(CONNECT_SECONDS)
            self._client.get_controller(name, within=ANSWER_SECONDS)
        except NotFound:
            text = f"{name!r} is not at the agent service, {self._address}; create it there first"
            raise invalid("controller", text) from None
        except Unavailable:
            self._asks_from = time.monotonic() + AWAY_SECONDS
        except AgentError:
            pass

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
