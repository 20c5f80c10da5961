"""Slow work is done beside the event loop, so that reports are answered meanwhile."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_service.client import AgentClient
from agent_service.controllers import tpe
from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.replay import ReplaySettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.specs import WarmStart
from agent_service.learning import policies, policy_file
from agent_service.wire import convert
from tests.agent_service.specs import spec
from tests.given import ServedAgent, of_sqlite


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[int]]:
    """Return what notes, from now on, the threads that call a function."""

    def note(owner: Any, name: str) -> list[int]:
        threads: list[int] = []
        actual = getattr(owner, name)

        def called(*arguments: Any, **options: Any) -> Any:
            threads.append(threading.get_ident())
            return actual(*arguments, **options)

        monkeypatch.setattr(owner, name, called)
        return threads

    return note


@of_sqlite
def test_controllers_and_policies_are_made_beside_it(
    served: ServedAgent, client: AgentClient, noted: Callable[[Any, str], list[int]]
) -> None:
    """Their weights, their specs as messages, and the check of a file, a warm start's too."""
    calls = {
        name: noted(owner, name)
        for owner, name in (
            (policies, "initial"),
            (policies, "adopted"),
            (policy_file, "from_bytes"),
            (convert, "spec_from_message"),
            (convert, "spec_to_message"),
        )
    }

    client.create_controller(spec())
    client.import_policy("c", client.export_policy("c"))
    client.create_controller(
        spec("warm", PPOSettings(warm_start=WarmStart(controller="c", policy_version=1)))
    )
    client.create_controller(spec("again", ReplaySettings(values=({"dropout": 0.5},) * 100)))
    list(client.list_controllers())

    assert all(calls.values())
    assert served._thread.ident not in {thread for threads in calls.values() for thread in threads}


@of_sqlite
def test_proposals_are_made_beside_it(
    served: ServedAgent, client: AgentClient, noted: Callable[[Any, str], list[int]]
) -> None:
    """A start finds its run's proposal ready, the very one that `verify` derives again."""
    hyperparameters = tuple(Hyperparameter(name=f"h{i}", low=0.0, high=1.0) for i in range(3))
    settings = BayesianSettings(n_startup_trials=1)
    client.create_controller(spec(algorithm=settings, hyperparameters=hyperparameters))
    file = json.loads(client.export_policy("c"))
    file["trials"] = [[[0.1 * i, 0.2, 0.3], 0.1 * i] for i in range(9)]
    client.import_policy("c", json.dumps(file).encode())
    tpe._proposed.cache_clear()
    threads = noted(tpe, "_sampler")

    first = client.run("c", run_id="one").action
    second = client.run("c", run_id="other").action

    assert first.explored
    assert second.values != first.values
    assert len(threads) == 2
    assert served._thread.ident not in threads
