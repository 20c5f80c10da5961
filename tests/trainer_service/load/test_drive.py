"""How a process of the load fails."""

import signal
from multiprocessing import Pipe
from typing import Any

import pytest

from agent_service.domain.errors import AgentError
from agent_service.serving.access import Access
from trainer_service.load import drive
from trainer_service.load.drive import Share

SHARE = Share(
    agent="127.0.0.1:9",
    access=Access(),
    controller="c",
    hyperparameter="dropout",
    runs=1,
    chunks=1,
    rate=None,
    seconds=60.0,
    over_streams=False,
    prefix="p",
)


class Failing:
    """A child whose report fails as no call does."""

    def report(self, stream: Any) -> int:
        raise ValueError("boom")


def test_what_fails_in_a_thread_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is; the process would end as if all were well."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(drive, "_started", lambda *_: [Failing()])
    ours, theirs = Pipe()
    ours.send(None)

    drive.drive(SHARE, theirs)

    error = ours.recv()
    assert isinstance(error, AgentError)
    assert "ValueError('boom')" in str(error)
