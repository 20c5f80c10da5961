"""A trainer service survives kills, an absent agent, a full disk, a stuck child."""

import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from agent_service.domain.runs import Mode
from tests.end_to_end.processes import AgentProcess, is_alive, wait_for
from tests.end_to_end.runs import causes, followed, wait_for_chunks
from tests.end_to_end.trainer_kills import kill_through_study
from tests.given import ServedTrainer
from tests.trainer_service.specs import ENDLESS, run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunSpec, RunState
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb


@pytest.fixture
def client(trainer: ServedTrainer) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedTrainer]:
    """A service that gives nobody a second chance, and whose agent is away."""
    folder = tmp_path_factory.mktemp("strict")
    with ServedTrainer(
        folder, stall_seconds=8.0, restarts=0, agent_seconds=0.0, checkpoint_seconds=0.0
    ) as strict:
        yield strict


def reinforced(chunks: int) -> RunSpec:
    return run_spec(Method.RD, controller="rd", mode=Mode.FROZEN, chunks=chunks)


def undisturbed(spec: RunSpec) -> str:
    """Train a run of fixed values here; return its weights' digest."""
    torch.set_num_threads(1)
    images = load_images(spec.training, Path("."))
    training = ChildTraining(spec.training, images, torch.device("cpu"))
    for _ in range(training.chunks):
        training.train_chunk({"dropout": 0.2})
    return training.weights_digest()


def kill_at_start(trainer: ServedTrainer, client: TrainerClient, run_id: str) -> bool:
    """Kill whatever trains, before it comes to a chunk; return whether the run has failed."""
    for process in trainer.run_processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return client.get(run_id).state == pb.RUN_STATE_FAILED


@pytest.mark.slow
def test_runs_killed_at_random_end_as_those_left_alone(tmp_path: Path) -> None:
    """Weights, scores, chunks and the agent's log, to the bit; two at once as one at a time."""
    figures = kill_through_study(
        tmp_path, kills=3, chunks=20, pause=1.0, seed=18, progress=lambda _text: None
    )

    assert [figures[f"{victim}_kills"] for victim in ("service", "child", "agent")] == [1, 1, 1]
    assert figures["times_gone_on"] > 0


def held_actions(trainer: ServedTrainer) -> float:
    with urlopen(trainer.metrics) as page:
        (held,) = re.findall(rb"\ntrainer_agent_held_actions_total (\S+)", page.read())
    return float(held)


def test_a_run_waits_in_sight_for_an_agent_that_is_away(
    agent: AgentProcess, trainer: ServedTrainer, client: TrainerClient
) -> None:
    """Its cause says so while it runs, and nothing once the agent is back; cancelled, it ends.

    The page counts both times that it held its action. Another one is queued meanwhile: whether its
    controller is there shows once the agent answers.
    """
    held = held_actions(trainer)
    client.submit("patient", reinforced(ENDLESS))
    wait_for_chunks(client, ["patient"])
    agent.stop()
    wait_for(lambda: "waits for the agent" in client.get("patient").cause)
    before = client.get("patient")
    agent.start()
    wait_for(lambda: client.get("patient").trained_chunks > before.trained_chunks)
    after = client.get("patient")
    agent.stop()
    wait_for(lambda: "waits for the agent" in client.get("patient").cause)
    queued = client.submit("nobodys", run_spec(Method.RD, controller="nobody")).state
    client.cancel("nobodys")
    client.cancel("patient")
    events = followed(client, "patient")
    agent.start()

    assert queued == pb.RUN_STATE_QUEUED
    assert before.state == after.state == pb.RUN_STATE_RUNNING
    assert after.cause == ""
    assert held_actions(trainer) - held == 2
    assert len([c for c in causes(events, RunState.RUNNING) if c]) == 2
    assert causes(events, RunState.CANCELLED) == [""]


def test_a_disk_that_takes_no_checkpoint_is_told_and_training_goes_on(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """The run's cause names it, until there is room again."""
    folder = trainer.store.with_name("trainer.db.checkpoints")
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file stands where the folder should")
    client.submit("no-room", run_spec(chunks=ENDLESS))
    wait_for(lambda: "no checkpoint can be written" in client.get("no-room").cause)
    chunks = client.get("no-room").trained_chunks
    wait_for(lambda: client.get("no-room").trained_chunks > chunks)
    folder.unlink()
    wait_for(lambda: client.get("no-room").cause == "")

    client.cancel("no-room")
    assert causes(followed(client, "no-room"), RunState.CANCELLED) == [""]


def test_a_run_that_gets_nowhere_fails_with_its_cause(strict: ServedTrainer) -> None:
    """Killed, stuck or without its agent for longer than is allowed; the service goes on."""
    with TrainerClient(strict.address, budget_seconds=60) as client:
        client.submit("lonely", reinforced(1))
        lonely = followed(client, "lonely")
        client.submit("stuck", run_spec(chunks=ENDLESS))
        wait_for_chunks(client, ["stuck"])
        (process,) = strict.run_processes()
        os.kill(process, signal.SIGSTOP)
        wait_for(lambda: not is_alive(process))
        # It had trained chunks, so it is started again; this time it shall not.
        wait_for(lambda: kill_at_start(strict, client, "stuck"))
        stuck = followed(client, "stuck")
        client.submit("after", run_spec(chunks=1))
        after = followed(client, "after")

    (cause,) = causes(lonely, RunState.FAILED)
    assert "no agent service at 127.0.0.1:9" in cause
    assert "no progress for 8 s" in causes(stuck, RunState.QUEUED)[1]
    (cause,) = causes(stuck, RunState.FAILED)
    assert "-9" in cause
    assert "1 starts in a row" in cause
    assert causes(after, RunState.SUCCEEDED) == [""]


def test_two_services_side_by_side_train_as_one_does(
    trainer: ServedTrainer, strict: ServedTrainer
) -> None:
    """The same weights and scores from both, at the same time, as from a training by itself."""
    spec = run_spec(Method.D, chunks=10, seed=7)
    results = []
    with (
        TrainerClient(trainer.address, budget_seconds=20) as one,
        TrainerClient(strict.address, budget_seconds=20) as other,
    ):
        for client in (one, other):
            client.submit("side-by-side", spec)
        for client in (one, other):
            followed(client, "side-by-side")
            results.append(client.get("side-by-side").result)

    for result in results:
        result.seconds = math.nan
    assert results[0].SerializeToString() == results[1].SerializeToString()
    assert results[0].weights_digest == undisturbed(spec)
