"""Runs stacked in one process, `--together`: each as if alone, whatever comes to another."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent_service.client import AgentClient
from agent_service.domain.runs import Mode
from agent_service.wire.convert import spec_from_message
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.end_to_end.runs import causes, chunks_of, followed, wait_for_chunks
from tests.given import ServedTrainer
from tests.trainer_service.specs import ENDLESS, run_spec
from tests.trainer_service.training.datasets.layouts import write_classes
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunSpec, RunState
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb

CHUNKS = 20
"""Of runs that are disturbed: some seconds of training."""
FEW = 8
"""Of runs that go on until they are told to, or that nobody disturbs."""


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, agent: AgentProcess
) -> Iterator[ServedTrainer]:
    folder = tmp_path_factory.mktemp("trainer")
    with ServedTrainer(folder, agent=agent.address, together=3, checkpoint_seconds=0.3) as trainer:
        yield trainer


@pytest.fixture
def client(trainer: ServedTrainer) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedTrainer]:
    """A service that stacks two and gives nobody a second chance; its agent is away."""
    folder = tmp_path_factory.mktemp("strict")
    with ServedTrainer(folder, together=2, restarts=0, data_memory="streamed") as strict:
        yield strict


@pytest.fixture
def strictly(strict: ServedTrainer) -> Iterator[TrainerClient]:
    with TrainerClient(strict.address, budget_seconds=60) as client:
        yield client


def like(method: Method = Method.D, *, chunks: int, seed: int, named: str = "rd") -> RunSpec:
    """Return a run that differs from others by its seed; small steps keep rounding small."""
    is_reinforced = method in (Method.RD, Method.RNI)
    reinforced = {"controller": named, "mode": Mode.FROZEN} if is_reinforced else {}
    return run_spec(method, chunks=chunks, seed=seed, learning_rate=1e-4, **reinforced)  # type: ignore[arg-type]


def submit(client: TrainerClient, specs: dict[str, RunSpec]) -> None:
    for run_id, spec in specs.items():
        client.submit(run_id, spec)


def damage_newest_checkpoint(trainer: ServedTrainer, run_id: str) -> None:
    """Tear it; the one before is whole."""
    folder = trainer.store.with_name("trainer.db.checkpoints") / run_id
    newest = max(folder.glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-100])


def check_as_alone(chunks: Sequence[Chunk], spec: RunSpec) -> None:
    """Check that all chunks were told once, in order, and brought what a training alone brings."""
    torch.set_num_threads(1)
    images = load_images(spec.training, Path("."))
    alone = ChildTraining(spec.training, images, torch.device("cpu"))
    assert [chunk.index for chunk in chunks] == list(range(1, alone.chunks + 1))
    for chunk in chunks:
        expected = alone.train_chunk(chunk.values)
        assert chunk.losses == pytest.approx(expected.losses, rel=0.02)
        assert chunk.epochs == expected.epochs


def test_runs_that_differ_by_seed_train_in_one_process_each_as_alone(
    trainer: ServedTrainer, client: TrainerClient, agent: AgentProcess
) -> None:
    """Chunks, values and log of each are its own; another spec waits for a process of its own."""
    specs = {f"rd-{seed}": like(Method.RD, chunks=FEW, seed=seed) for seed in range(3)}
    submit(client, {"rd-0": specs["rd-0"], "other": like(chunks=2, seed=0), **specs})
    wait_for_chunks(client, list(specs))
    processes, other = trainer.run_processes(), client.get("other").state
    chunks = {run_id: chunks_of(followed(client, run_id)) for run_id in specs}
    followed(client, "other")
    with AgentClient(agent.address, budget_seconds=60) as agent_client:
        logs = {run_id: list(agent_client.transitions(run_id=run_id)) for run_id in specs}

    assert len(processes) == 1
    assert other == pb.RUN_STATE_QUEUED
    for run_id, spec in specs.items():
        check_as_alone(chunks[run_id], spec)
        assert [tuple(t.next_state) for t in logs[run_id]] == [c.losses for c in chunks[run_id]]
        assert client.get(run_id).result.device.endswith("stacked with 2 more")
    assert chunks["rd-0"][0].losses != chunks["rd-1"][0].losses
    assert "stacked" not in client.get("other").result.device
    assert client.device().together == 3


def test_runs_go_on_together_from_parents_that_ended(
    client: TrainerClient, agent: AgentProcess
) -> None:
    """Each as one that was planned so long, alone; at the agent it is a run of its own."""
    specs = {seed: like(Method.RD, chunks=3, seed=seed) for seed in range(2)}
    submit(client, {f"parent-{seed}": replace(spec, keep=True) for seed, spec in specs.items()})
    before = {seed: chunks_of(followed(client, f"parent-{seed}")) for seed in specs}
    longer = {seed: like(Method.RD, chunks=6, seed=seed) for seed in specs}
    submit(
        client,
        {f"on-{seed}": replace(longer[seed], parent=f"parent-{seed}") for seed in specs},
    )
    after = {seed: chunks_of(followed(client, f"on-{seed}")) for seed in specs}
    with AgentClient(agent.address, budget_seconds=60) as agent_client:
        logs = {seed: list(agent_client.transitions(run_id=f"on-{seed}")) for seed in specs}
        planned = agent_client.get_run("on-0").planned_chunks
    for seed in specs:
        client.discard(f"parent-{seed}")

    for seed in specs:
        check_as_alone([*before[seed], *after[seed]], longer[seed])
        assert client.get(f"on-{seed}").result.device.endswith("stacked with 1 more")
        assert [t.chunk_index for t in logs[seed]] == [1, 2, 3]
        assert [tuple(t.next_state) for t in logs[seed]] == [c.losses for c in after[seed]]
    assert planned == 3


def test_a_run_that_leaves_does_not_disturb_the_others(
    client: TrainerClient, agent: AgentProcess
) -> None:
    """One that is cancelled, one that fails: told at once, and the third is as if alone."""
    specs = {
        "stays": like(Method.RD, chunks=CHUNKS, seed=1),
        "fails": like(Method.RD, chunks=CHUNKS, seed=2, named="nobody"),
        "cancelled": like(Method.RD, chunks=CHUNKS, seed=3),
    }
    client.submit("before", like(chunks=ENDLESS, seed=0))
    wait_for_chunks(client, ["before"])
    with AgentClient(agent.address) as agent_client:
        rd = agent_client.get_controller("rd").spec
        agent_client.create_controller(replace(spec_from_message(rd), name="nobody"))
        submit(client, specs)
        agent_client.delete_controller("nobody")  # before it is asked: the runs wait for a process
    client.cancel("before")
    wait_for_chunks(client, ["stays", "cancelled"], 3)
    failed = client.get("fails")
    client.cancel("cancelled")
    cut = chunks_of(followed(client, "cancelled"))
    still = client.get("stays").state
    chunks = chunks_of(followed(client, "stays"))

    assert failed.state == pb.RUN_STATE_FAILED
    assert "no controller 'nobody'" in failed.cause
    assert causes(followed(client, "cancelled"), RunState.CANCELLED) == [""]
    assert 3 <= len(cut) < CHUNKS
    assert still == pb.RUN_STATE_RUNNING
    check_as_alone(chunks, specs["stays"])


def test_runs_together_go_on_through_kills_and_a_stop(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """SIGKILL of their process, SIGTERM of the service, a torn checkpoint: all chunks told once.

    The run that has only its checkpoint before that one trains alone until it stands where the
    others do.
    """
    specs = {f"goes-on-{seed}": like(chunks=CHUNKS, seed=seed) for seed in range(3)}
    submit(client, specs)
    wait_for_chunks(client, list(specs), 4)
    (process,) = trainer.run_processes()
    os.kill(process, signal.SIGKILL)
    wait_for_chunks(client, list(specs), 8)
    trainer.stop()
    damage_newest_checkpoint(trainer, "goes-on-1")
    trainer.start()

    for run_id, spec in specs.items():
        happened = followed(client, run_id)
        check_as_alone(chunks_of(happened), spec)
        _first, killed, stopped = causes(happened, RunState.QUEUED)
        assert "exit code -9" in killed
        assert "stopped" in stopped
        assert "stacked with 2 more" in client.get(run_id).result.device
    assert not any(trainer.store.with_name("trainer.db.checkpoints").iterdir())


def test_runs_handed_back_while_they_wait_for_the_agent_lose_nothing(
    agent: AgentProcess, tmp_path: Path
) -> None:
    """SIGTERM of the service while one waits to report a chunk, and the other with its own."""
    specs = {f"waits-{seed}": like(Method.RD, chunks=FEW, seed=seed) for seed in range(2)}
    # Their first checkpoints are those that they are handed back with.
    options = {"together": 2, "restarts": 0, "checkpoint_seconds": 1000.0}
    with (
        ServedTrainer(tmp_path, agent=agent.address, **options) as trainer,
        TrainerClient(trainer.address, budget_seconds=60) as client,
    ):
        submit(client, specs)
        wait_for_chunks(client, list(specs), 2)
        agent.stop()
        wait_for(lambda: all("waits for" in client.get(run_id).cause for run_id in specs))
        trainer.stop()
        agent.start()
        trainer.start()
        for run_id, spec in specs.items():
            happened = followed(client, run_id)
            check_as_alone(chunks_of(happened), spec)
            assert len(causes(happened, RunState.QUEUED)) == 2


def test_runs_that_got_nowhere_together_are_tried_alone(
    strict: ServedTrainer, strictly: TrainerClient
) -> None:
    """One of them may be the cause, so none fails for it, and the next start has one only."""
    names, client = ("first", "second"), strictly
    submit(client, {name: like(Method.RD, chunks=1, seed=n) for n, name in enumerate(names)})
    wait_for(lambda: all("waits for" in client.get(name).cause for name in names))
    (process,) = strict.run_processes()
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: "code -9" in client.get("second").cause)
    wait_for(lambda: "waits for" in client.get("first").cause)
    alone = client.get("second").state
    for name in names:
        client.cancel(name)

    assert alone == pb.RUN_STATE_QUEUED
    for name in names:
        assert causes(followed(client, name), RunState.CANCELLED) == [""]


def test_a_cancelled_run_does_not_wait_with_the_others(strictly: TrainerClient) -> None:
    """While the first waits for the agent, the second leaves, and then itself."""
    submit(strictly, {f"w{seed}": like(Method.RD, chunks=1, seed=seed) for seed in range(2)})
    wait_for(lambda: "waits for" in strictly.get("w1").cause)
    for name in ("w1", "w0"):
        strictly.cancel(name)
        assert causes(followed(strictly, name), RunState.CANCELLED) == [""]


def test_an_image_that_gets_lost_fails_each_run_by_itself(
    strict: ServedTrainer, strictly: TrainerClient
) -> None:
    """The chunk of both fails; then each is tried alone, and its cause names the image."""
    faces = strict.store.with_name("faces")
    write_classes(faces)
    data = {"dataset": "folder:faces", "image_size": 8, "training_size": None}
    specs = {}
    for seed in range(2):
        spec = like(chunks=ENDLESS, seed=seed)
        specs[f"lost-{seed}"] = replace(spec, training=replace(spec.training, **data))  # type: ignore[arg-type]
    submit(strictly, specs)
    wait_for_chunks(strictly, list(specs))
    for path in faces.rglob("*.png"):
        path.write_bytes(b"no image")
    for run_id in specs:
        happened = followed(strictly, run_id)
        (cause,) = causes(happened, RunState.FAILED)
        assert ".png" in cause
        assert "2 stacked children: DataError" in causes(happened, RunState.QUEUED)[1]
