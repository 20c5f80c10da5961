"""Clients and runs that are pickled: for spawned workers, joblib and Ray."""

import copy
import multiprocessing
import pickle
from pathlib import Path

import pytest

from agent_service.client import AgentClient
from agent_service.client.connection.channel import SecuredChannel
from tests.agent_service.specs import spec
from tests.given import ServedAgent
from trainer_service.client import TrainerClient


def names(client: AgentClient) -> list[str]:
    return [c.spec.name for c in client.list_controllers()]


def test_a_client_works_in_a_spawned_process(client: AgentClient) -> None:
    """It connects anew there; the one here goes on."""
    client.create_controller(spec())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(names, (client,)) == ["c"]
    assert names(client) == ["c"]


def test_a_copy_is_opened_as_the_client_was(served: ServedAgent, tmp_path: Path) -> None:
    """With its token and patience; so also what holds one, as a callback does."""
    token = tmp_path / "token"
    token.write_text("t" * 20)
    with AgentClient(served.address, budget_seconds=3, token=token) as client:
        for other in (
            pickle.loads(pickle.dumps(client)),
            copy.deepcopy({"client": client})["client"],
        ):
            assert names(other) == []
            assert other._calls._budget == 3
            assert isinstance(other._calls.channel, SecuredChannel)
            assert other._calls.channel.metadata == (("authorization", "Bearer " + "t" * 20),)
            other.close()


def test_the_trainers_client_is_pickled_likewise(served: ServedAgent) -> None:
    """As one of its own kind."""
    assert type(pickle.loads(pickle.dumps(TrainerClient(served.address)))) is TrainerClient


def test_a_run_says_why_it_is_not_pickled(client: AgentClient) -> None:
    """And what goes to another process in its place."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match=r"cannot be pickled or copied; pass .*hyperparameters.*run_id"
        ):
            copied(run)
