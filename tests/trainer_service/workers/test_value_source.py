"""Retries while the agent is unavailable: reported, and limited in time."""

import pytest

from agent_service.domain.errors import FailedPrecondition, Unavailable
from trainer_service.workers.value_source import AgentRetry


class Agent:
    """Unavailable for `away` calls, then answers."""

    def __init__(self, away: int) -> None:
        self.away = away

    def ask(self) -> str:
        self.away -= 1
        if self.away >= 0:
            raise Unavailable("nobody there")
        return "answer"


def nothing() -> None:
    """Do not abort the wait."""


def test_a_wait_and_its_end_are_reported() -> None:
    """Each failed attempt reports the cause, then "" ends the wait; without a wait, nothing."""
    causes: list[str] = []
    retry = AgentRetry(60.0, notify=causes.append, check=nothing)

    assert retry.call(Agent(away=2).ask) == "answer"
    assert causes == ["waits for the agent: nobody there"] * 2 + [""]
    assert retry.call(Agent(away=0).ask) == "answer"
    assert len(causes) == 3


def test_retries_end() -> None:
    """After the limit, the agent's error is raised."""
    with pytest.raises(Unavailable, match="nobody there"):
        AgentRetry(0.0, notify=lambda _text: None, check=nothing).call(Agent(away=10**6).ask)


def test_the_check_can_abort_a_wait() -> None:
    """An exception of the check ends the wait, as when the service stops."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        AgentRetry(60.0, notify=lambda _text: None, check=stop).call(Agent(away=10**6).ask)


def test_other_errors_are_not_retried() -> None:
    """Only Unavailable is."""

    def refuse() -> None:
        raise FailedPrecondition("another chunk")

    with pytest.raises(FailedPrecondition):
        AgentRetry(60.0, notify=lambda _text: None, check=nothing).call(refuse)
