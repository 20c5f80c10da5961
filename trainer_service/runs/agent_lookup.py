"""Checks at submission that a run's controller exists at the agent service."""

from __future__ import annotations

import time

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, NotFound, Unavailable, invalid
from trainer_service.config import TrainerConfig

PATIENCE_SECONDS = 1.0
"""Timeout of a submission's question to the agent."""
GLANCE_SECONDS = 0.05
"""The same while the agent was away a moment ago, so that submissions stay quick."""
AWAY_SECONDS = 30.0
"""For how long after a failure an agent only gets a glance."""


class AgentLookup:
    """A connection to the agent service. Thread-safe; close it."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect on first use."""
        access = config.agent_access
        self._address = config.agent
        self._client = AgentClient(
            config.agent, budget_seconds=0, tls=access.tls, token=access.token
        )
        self._patient_from = 0.0

    def check_controller(self, name: str) -> None:
        """Check that the agent has a controller named `name`.

        If the agent is unavailable or answers with another error, nothing is raised: the run
        waits for the agent, or fails, when it begins.

        Raises:
            InvalidArgument: the agent has no such controller.
        """
        is_patient = time.monotonic() >= self._patient_from
        seconds = PATIENCE_SECONDS if is_patient else GLANCE_SECONDS
        try:
            self._client.get_controller(name, within=seconds)
            self._patient_from = 0.0
        except NotFound:
            text = (
                f"{name!r} is not at the agent service, {self._address}; create it there, in "
                f"Python by AgentClient({self._address!r}).create_controller(spec)"
            )
            raise invalid("controller", text) from None
        except Unavailable:
            if is_patient:
                self._patient_from = time.monotonic() + AWAY_SECONDS
        except AgentError:
            pass

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
