"""One client, used by two threads, beside forked workers, and by two processes."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from agent_service.client import AgentClient
from tests.agent_service.specs import spec
from tests.given import ServedAgent

SCRIPT = """
import sys
from agent_service.client import AgentClient
with AgentClient(sys.argv[1], budget_seconds=5) as agent, agent.run("c", run_id=sys.argv[2]) as run:
    for _ in range(10):
        run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
"""


class Asking(Dataset[torch.Tensor]):
    """A data set whose workers may ask the agent."""

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


def train(client: AgentClient, run_id: str) -> None:
    with client.run("c", run_id=run_id) as run:
        for _ in range(10):
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)


def test_threads_share_a_client(client: AgentClient) -> None:
    """Each has its own run; all chunks of both are in the log."""
    client.create_controller(spec())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run_id: train(client, run_id), ["a", "b"]))

    assert sorted((t.run_id, t.chunk_index) for t in client.transitions()) == [
        (run_id, chunk) for run_id in "ab" for chunk in range(1, 11)
    ]


def test_processes_have_a_client_each(served: ServedAgent, client: AgentClient) -> None:
    """Two scripts at once, under one controller."""
    client.create_controller(spec())
    command = [sys.executable, "-c", SCRIPT, served.address]
    scripts = [subprocess.Popen([*command, run_id]) for run_id in ("a", "b")]
    assert [script.wait(60) for script in scripts] == [0, 0]

    assert len(list(client.transitions())) == 20


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_is_refused_and_the_training_goes_on(client: AgentClient) -> None:
    """A worker that uses its parent's client is told so at once; beside others it works."""
    client.create_controller(spec())
    client.get_controller("c")
    with pytest.raises(Exception, match="belongs to the process that created it"):
        list(loader(client, asks=True))
    with client.run("c", run_id="r") as run:
        for batch in loader(client, asks=False):
            run.report_chunk(batch.tolist(), training_score=0.5, validation_score=0.5)

    assert [list(t.next_state) for t in client.transitions(run_id="r")] == [
        [float(4 * chunk + i) for i in range(4)] for chunk in range(4)
    ]
