"""A service is pruned while it serves: calls go on, and all that was ever acknowledged is there."""

import subprocess
import threading
from pathlib import Path

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, RandomSettings
from agent_service.domain.errors import AlreadyExists, NotFound
from agent_service.domain.store import Durability
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import Trainings, in_archive, in_store
from tests.agent_service.specs import spec
from tests.agent_service.store.conftest import store_url
from tests.end_to_end.processes import AgentProcess, command_of

__all__ = ["store_url"]
RUNS, CHUNKS = 30, 20


class Child(threading.Thread):
    """Trains until it is told to stop; keeps what it was answered."""

    def __init__(self, address: str, run_id: str) -> None:
        super().__init__()
        self._address = address
        self._run_id = run_id
        self.answers: list[float] = []
        self.is_to_end = False

    def run(self) -> None:
        with AgentClient(self._address, budget_seconds=60) as client:
            run = client.run("live", run_id=self._run_id, when_away=None)
            while not self.is_to_end:
                values = run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
                self.answers.append(values["dropout"])


def test_a_served_store_is_pruned(store_url: str, tmp_path: Path) -> None:
    """Children report throughout, and a client sees nothing but that old runs are gone."""
    with SqlStore(store_url, durability=Durability.PROCESS) as store:
        old = Trainings(store)
        old.create()
        for number in range(RUNS):
            old.train(f"old-{number}", chunks=CHUNKS)
    folder = tmp_path / "archive"
    with AgentProcess(store_url) as agent, AgentClient(agent.address) as client:
        client.create_controller(spec("live", RandomSettings()))
        assert client.get_run("old-3").reported_chunks == CHUNKS
        children = [Child(agent.address, f"live-{number}") for number in range(2)]
        for child in children:
            child.start()
        words = ["prune", "--store", store_url, "--older-than", "1d", "--archive", str(folder)]
        pruning = subprocess.Popen([*command_of("agent_service"), *words])
        seen = []
        while pruning.poll() is None:
            before = sum(len(child.answers) for child in children)
            client.get_run("live-0") if before else client.list_runs()
            if not list(folder.glob("*.parquet")):
                continue
            seen.append(before)
        for child in children:
            child.is_to_end = True
        for child in children:
            child.join()
        assert pruning.returncode == 0
        # Reports were answered between the first deletion and the last.
        assert seen[-1] > seen[0] > 0
        with pytest.raises(NotFound, match="'old-3' was pruned"):
            client.get_run("old-3")
        with pytest.raises(AlreadyExists, match="its id stays taken"):
            client.run("random", run_id="old-3")
        told = {
            run_id: [t.action.values["dropout"] for t in client.transitions(run_id=run_id)]
            for run_id in ("live-0", "live-1")
        }

    for number, child in enumerate(children):
        # The last answer is of a chunk that nobody reported.
        assert told[f"live-{number}"][1:] == child.answers[:-1]
    with SqlStore(store_url) as store:
        there, here = in_store(store), in_archive(folder)
    assert not there.keys() & here.keys()
    assert len(here) == RUNS * CHUNKS
    assert {row["run_id"] for row in here.values()} == {f"old-{number}" for number in range(RUNS)}
    assert verify_store(store_url) == len(there) + len(children)
