"""Waiting for an agent that is away: in sight of all, and not for ever."""

import pytest

from agent_service.domain.errors import FailedPrecondition, Unavailable
from trainer_service.workers.steering import Patience


class Agent:
    """Is away for so many calls, then answers."""

    def __init__(self, away: int) -> None:
        self.away = away

    def ask(self) -> str:
        self.away -= 1
        if self.away >= 0:
            raise Unavailable("nobody there")
        return "answer"


def nothing() -> None:
    """Ask for nothing else."""


def test_a_wait_is_told_and_so_is_its_end() -> None:
    """Each try tells the cause, an empty one says that it is over; who need not wait tells none."""
    told: list[str] = []
    patience = Patience(60.0, tell=told.append, check=nothing)

    assert patience.call(Agent(away=2).ask) == "answer"
    assert told == ["waits for the agent: nobody there"] * 2 + [""]
    assert patience.call(Agent(away=0).ask) == "answer"
    assert len(told) == 3


def test_patience_ends() -> None:
    """After the time that is given the error is the agent's."""
    with pytest.raises(Unavailable, match="nobody there"):
        Patience(0.0, tell=lambda _text: None, check=nothing).call(Agent(away=10**6).ask)


def test_who_waits_listens() -> None:
    """What the check raises, as where the service stops, ends the wait."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Patience(60.0, tell=lambda _text: None, check=stop).call(Agent(away=10**6).ask)


def test_an_answer_that_refuses_is_not_waited_for() -> None:
    """Only absence is."""

    def refuse() -> None:
        raise FailedPrecondition("another chunk")

    with pytest.raises(FailedPrecondition):
        Patience(60.0, tell=lambda _text: None, check=nothing).call(refuse)
