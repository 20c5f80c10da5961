"""How long full rollouts wait for the policy that they make."""

from dataclasses import replace

import pytest

from agent_service.client import AgentClient, PPOSettings
from agent_service.domain.errors import AgentError
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent
from tests.trainer_service.load.test_drive import SHARE
from trainer_service.load.watch import UpdateLag, Watch


def test_a_rollout_waits_from_when_it_was_full() -> None:
    """Not from when its first transition came, nor from the update before it."""
    lag = UpdateLag(rollout=10, version=5)

    lag.see(1.0, version=5, waiting=9)
    lag.see(2.0, version=5, waiting=12)
    lag.see(3.0, version=5, waiting=19)
    lag.see(4.5, version=6, waiting=9)

    assert lag.seconds == [2.5]


def test_a_backlog_waits_for_all_updates_before_it() -> None:
    """Each rollout of it has been full since its own last transition came."""
    lag = UpdateLag(rollout=10, version=1)

    lag.see(1.0, version=1, waiting=10)
    lag.see(2.0, version=1, waiting=25)
    lag.see(3.0, version=2, waiting=15)
    lag.see(7.0, version=3, waiting=5)

    assert lag.seconds == [2.0, 5.0]


def test_what_is_dropped_as_stale_makes_no_update() -> None:
    """And what fills a rollout afterwards has not waited for it twice."""
    lag = UpdateLag(rollout=10, version=1)

    lag.see(1.0, version=1, waiting=10)
    lag.see(2.0, version=1, waiting=0)

    assert lag.seconds == []


def test_several_updates_between_two_looks_are_all_counted() -> None:
    """Also one whose rollout nobody saw full: it waited for no longer than a look."""
    lag = UpdateLag(rollout=10, version=1)

    lag.see(1.0, version=1, waiting=10)
    lag.see(2.0, version=3, waiting=3)

    assert lag.seconds == [1.0, 0.0]


def test_a_watch_that_fails_is_told(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures would be those of a part of the time."""
    client.create_controller(spec(algorithm=PPOSettings()))
    watch = Watch(replace(SHARE, agent=served.address))
    monkeypatch.setattr(watch, "_look_at_controller", lambda: 1 / 0)

    with pytest.raises(AgentError, match="ZeroDivisionError"), watch:
        pass
