"""Retries while the agent is unavailable: reported, and limited in time."""

from collections.abc import Callable

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


def stop() -> None:
    raise InterruptedError


def refuse() -> str:
    raise FailedPrecondition("another chunk")


@pytest.mark.parametrize(
    ("seconds", "check", "ask", "error"),
    [
        (0.0, nothing, Agent(away=10**6).ask, Unavailable),
        # As when the service stops.
        (60.0, stop, Agent(away=10**6).ask, InterruptedError),
        (60.0, nothing, refuse, FailedPrecondition),
    ],
)
def test_retries_end(
    seconds: float, check: Callable[[], None], ask: Callable[[], str], error: type[Exception]
) -> None:
    """After the limit, by an exception of the check, and at any error but Unavailable."""
    with pytest.raises(error):
        AgentRetry(seconds, notify=lambda _text: None, check=check).call(ask)
