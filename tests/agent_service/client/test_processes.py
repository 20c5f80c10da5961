"""Clients in other processes: pickled for spawned workers, refused in forked ones."""

import copy
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from agent_service.client import AgentClient
from agent_service.client.connection.channel import SecuredChannel
from tests.given import ServedAgent
from trainer_service.client import TrainerClient


def names(client: AgentClient) -> list[str]:
    return [c.spec.name for c in client.list_controllers()]


def test_a_client_works_in_a_spawned_process(client: AgentClient) -> None:
    """It opens a new connection there; this one stays open."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(names, (client,)) == ["c"]
    assert names(client) == ["c"]


def test_a_copy_is_opened_with_the_clients_arguments(served: ServedAgent, tmp_path: Path) -> None:
    """With its token and budget; also in a copy of what holds it, such as a callback."""
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
    assert type(pickle.loads(pickle.dumps(TrainerClient(served.address)))) is TrainerClient


def test_a_run_cannot_be_pickled_or_copied(client: AgentClient) -> None:
    """The error says what to pass to another process instead."""
    run = client.run("c", run_id="r")
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match=r"cannot be pickled or copied; pass .*hyperparameters.*run_id"
        ):
            copied(run)


class Asking(Dataset[torch.Tensor]):
    """A data set whose workers may call the agent."""

    def __init__(self, client: AgentClient, *, asks: bool) -> None:
        self._client = client
        self._asks = asks

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._asks:
            self._client.get_controller("c")
        return torch.tensor(float(index))


def loader(client: AgentClient, *, asks: bool) -> DataLoader[torch.Tensor]:
    data = Asking(client, asks=asks)
    return DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="fork")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_may_not_use_its_parents_client(client: AgentClient) -> None:
    """It gets an error at once, instead of hanging; the training itself continues."""
    with pytest.raises(Exception, match="belongs to the process that created it"):
        list(loader(client, asks=True))
    with client.run("c", run_id="r") as run:
        for batch in loader(client, asks=False):
            run.report_chunk(batch.tolist(), training_score=0.5, validation_score=0.5)

    assert [list(t.next_state) for t in client.transitions(run_id="r")] == [
        [float(4 * chunk + i) for i in range(4)] for chunk in range(4)
    ]
