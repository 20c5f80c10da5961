"""Runs on a cluster of Ray: the same as on this machine, whatever becomes of nodes and service.

`make test-ray` begins with it; the suite does without Ray's own processes (`test_ray_executor.py`).
"""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent_service.domain.runs import Mode
from tests.end_to_end.processes import AgentProcess, TrainerProcess, wait_for
from tests.end_to_end.ray_cluster import RayCluster
from tests.end_to_end.runs import causes, followed
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import (
    ChunkTrained,
    EventContent,
    Finished,
    RunSpec,
    RunState,
)
from trainer_service.training.spec import Method

SECONDS = 400.0
"""How long a condition is waited for: processes of Ray start slowly on a busy machine."""
LONGEST = 1800
"""Seconds of a test; some 60 where nothing else runs, and 30 until it begins."""
CHUNKS = 120
"""So many that none has ended when the last has begun."""
RUNS = {
    "rd": run_spec(Method.RD, controller="rd", mode=Mode.FROZEN, chunks=CHUNKS),
    "d": run_spec(Method.D, chunks=CHUNKS, seed=1),
    "ni": run_spec(Method.NI, chunks=CHUNKS, seed=2),
}


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    """Two nodes with a GPU each, which two processes share."""
    with RayCluster(cpus=2, gpus=1) as cluster:
        cluster.add_node()
        cluster.add_node()
        yield cluster


@pytest.fixture
def trainer(tmp_path: Path, agent: AgentProcess, cluster: RayCluster) -> Iterator[TrainerProcess]:
    """A service whose runs train there, and keep a checkpoint at each chunk."""
    options = ("--executor", "ray", "--address", cluster.address, "--gpus-per-process", "0.5")
    stored = ("--storage", f"local://{tmp_path}/shared", "--checkpoint-seconds", "0")
    trainer = TrainerProcess(tmp_path, *options, *stored, agent=agent.address, parallel=3)
    trainer.log = tmp_path / "log"
    with trainer:
        yield trainer


@pytest.fixture
def client(trainer: TrainerProcess) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        yield client


def outcome(told: Sequence[EventContent]) -> list[EventContent]:
    """Return chunks and result: what must not depend on where a run trained."""
    return [what for what in told if isinstance(what, ChunkTrained | Finished)]


def submit(client: TrainerClient, runs: dict[str, RunSpec]) -> None:
    for run_id, spec in runs.items():
        client.submit(run_id, spec)


def wait_for_more_chunks(client: TrainerClient, run_ids: Sequence[str]) -> None:
    def have_more() -> bool:
        return all(client.get(run_id).trained_chunks > before[run_id] for run_id in before)

    before = {run_id: client.get(run_id).trained_chunks for run_id in run_ids}
    wait_for(have_more, seconds=SECONDS)


@pytest.fixture
def at_home(
    tmp_path_factory: pytest.TempPathFactory, agent: AgentProcess
) -> dict[str, list[EventContent]]:
    """Events of the runs without disturbance, one after another on this machine."""
    with (
        TrainerProcess(tmp_path_factory.mktemp("home"), agent=agent.address) as trainer,
        TrainerClient(trainer.address, budget_seconds=60) as client,
    ):
        submit(client, {f"home-{run_id}": spec for run_id, spec in RUNS.items()})
        return {run_id: followed(client, f"home-{run_id}") for run_id in RUNS}


@pytest.mark.timeout(LONGEST)
def test_runs_end_as_at_home_whatever_becomes_of_node_and_service(
    cluster: RayCluster,
    trainer: TrainerProcess,
    client: TrainerClient,
    at_home: dict[str, list[EventContent]],
) -> None:
    """To the bit, each chunk told once: a node dies, the service is killed, then stopped.

    A run whose data is on no node fails and says on which; the next one there trains.
    """
    submit(client, RUNS)
    wait_for_more_chunks(client, list(RUNS))
    waiting = a_node_dies(cluster, client)
    wait_for_more_chunks(client, [waiting])
    the_service_is_killed_and_stopped(cluster, trainer, client, waiting)
    client.submit("no-data", run_spec(dataset="npz:missing"))
    client.submit("after", run_spec(chunks=1))
    told = {run_id: followed(client, run_id) for run_id in [*RUNS, "no-data", "after"]}

    for run_id in RUNS:
        assert outcome(told[run_id]) == outcome(at_home[run_id])
        assert causes(told[run_id], RunState.SUCCEEDED) == [""]
    again = [cause for run_id in RUNS for cause in causes(told[run_id], RunState.QUEUED)[1:]]
    lost = [cause for cause in again if "is lost" in cause]
    assert lost
    assert all("it starts again" in cause for cause in lost)
    *_, killed, stopped = causes(told[waiting], RunState.QUEUED)
    assert "killed" in killed
    assert "stopped" in stopped
    assert set(again) <= {*lost, killed, stopped}
    waited = [cause for cause in causes(told[waiting], RunState.RUNNING) if cause]
    assert "waits for a place on Ray: 1 CPU, 0.5 GPU" in waited
    (missing,) = causes(told["no-data"], RunState.FAILED)
    assert "missing" in missing
    assert f"(on node {platform.node()})" in missing
    assert causes(told["after"], RunState.SUCCEEDED) == [""]


def a_node_dies(cluster: RayCluster, client: TrainerClient) -> str:
    """Two runs share the GPU that is left; return the one that waits until there is another."""

    def wait_now() -> bool:
        waiting.extend(run_id for run_id in RUNS if "waits for" in client.get(run_id).cause)
        return bool(waiting)

    waiting: list[str] = []
    cluster.kill_node()
    wait_for(wait_now, seconds=SECONDS)
    cluster.add_node()
    return waiting[0]


def the_service_is_killed_and_stopped(
    cluster: RayCluster, trainer: TrainerProcess, client: TrainerClient, training: str
) -> None:
    """SIGKILL leaves no process training; SIGTERM hands back what trains."""
    assert cluster.run_processes()
    trainer.kill()
    wait_for(lambda: not cluster.run_processes(), seconds=SECONDS)
    trainer.start()
    wait_for_more_chunks(client, [training])
    assert cluster.run_processes()
    assert trainer.stop() == 0
    assert not cluster.run_processes()
    trainer.start()
