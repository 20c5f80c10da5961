"""What a trainer service survives: kills, stops, an absent agent, a full disk, a stuck child."""

import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agent_service.domain.runs import Mode
from tests.end_to_end.processes import (
    AgentProcess,
    TrainerProcess,
    is_alive,
    wait_for,
)
from tests.end_to_end.trainer_kills import kill_through_study
from tests.trainer_service.specs import ENDLESS, run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import ChunkTrained, Event, RunSpec, RunState, StateChanged
from trainer_service.runs.store import RunStore
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb

SLOW = 60
"""Chunks of a run that is disturbed: some seconds of training."""


@pytest.fixture
def client(trainer: TrainerProcess) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerProcess]:
    """A service that gives nobody a second chance, and whose agent is away."""
    options = ("--stall-seconds", "8", "--restarts", "0", "--agent-seconds", "0")
    folder = tmp_path_factory.mktemp("strict")
    with TrainerProcess(folder, *options, "--checkpoint-seconds", "0") as strict:
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


def causes(events: list[Event], state: RunState) -> list[str]:
    return [
        e.what.cause for e in events if isinstance(e.what, StateChanged) and e.what.state is state
    ]


def chunk_indices(events: list[Event]) -> list[int]:
    return [e.what.chunk.index for e in events if isinstance(e.what, ChunkTrained)]


def wait_for_chunk(client: TrainerClient, run_id: str) -> None:
    wait_for(lambda: client.get(run_id).trained_chunks > 0)


def kill_child(trainer: TrainerProcess) -> int:
    (process,) = trainer.run_processes()
    os.kill(process, signal.SIGKILL)
    return process


def kill_at_start(trainer: TrainerProcess, client: TrainerClient, run_id: str) -> bool:
    """Kill whatever trains, before it comes to a chunk; return whether the run has failed."""
    for process in trainer.run_processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return client.get(run_id).state == pb.RUN_STATE_FAILED


@pytest.mark.slow
def test_runs_killed_at_random_end_as_those_left_alone(tmp_path: Path) -> None:
    """Weights, scores, chunks and the agent's log, to the bit; two at once as one at a time."""
    figures = kill_through_study(tmp_path, kills=3, chunks=20, seed=18, progress=lambda _text: None)

    assert [figures[f"{victim}_kills"] for victim in ("service", "child", "agent")] == [1, 1, 1]
    assert figures["times_gone_on"] > 0


@pytest.mark.slow
def test_a_run_goes_on_through_kills_and_a_stop_to_the_same_weights(
    trainer: TrainerProcess, client: TrainerClient
) -> None:
    """SIGKILL of child and service, SIGTERM of the service: no chunk lost or told twice."""
    spec = run_spec(Method.D, chunks=SLOW)
    client.submit("disturbed", spec)
    client.submit("behind", run_spec(chunks=1))
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: list(client.watch("disturbed")))
        wait_for_chunk(client, "disturbed")
        killed_child = kill_child(trainer)
        wait_for(lambda: trainer.run_processes() not in ([], [killed_child]))
        (child,) = trainer.run_processes()
        trainer.kill()
        wait_for(lambda: not is_alive(child))
        trainer.start()
        wait_for(lambda: client.get("disturbed").state == pb.RUN_STATE_RUNNING)

        assert trainer.stop() == 0
        assert not trainer.run_processes()
        store = RunStore(trainer.store)
        stopped = store.find("disturbed")
        store.close()
        trainer.start()
        events = watching.result()

    assert stopped is not None
    assert stopped.state is RunState.QUEUED
    assert "stopped" in stopped.cause
    assert [e.index for e in events] == list(range(1, len(events) + 1))
    assert chunk_indices(events) == list(range(1, SLOW + 1))
    assert client.get("disturbed").result.weights_digest == undisturbed(spec)
    first, killed, service_killed, service_stopped = causes(events, RunState.QUEUED)
    assert first == ""
    assert "exit code -9" in killed
    assert "killed" in service_killed
    assert "stopped" in service_stopped
    assert causes(list(client.watch("behind")), RunState.SUCCEEDED) == [""]
    assert not any(trainer.store.with_name("trainer.db.checkpoints").iterdir())
    board = EventAccumulator(str(trainer.store.parent / "board" / "disturbed"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss/train")] == list(range(1, SLOW + 1))


def held_actions(trainer: TrainerProcess) -> float:
    with urlopen(trainer.metrics) as page:
        (held,) = re.findall(rb"\ntrainer_agent_held_actions_total (\S+)", page.read())
    return float(held)


def test_a_run_waits_in_sight_for_an_agent_that_is_away(
    agent: AgentProcess, trainer: TrainerProcess, client: TrainerClient
) -> None:
    """Its cause says so while it runs, and nothing once the agent is back; cancelled, it ends.

    The page counts both times that it held its action. Another one is queued meanwhile: whether its
    controller is there shows once the agent answers.
    """
    held = held_actions(trainer)
    client.submit("patient", reinforced(ENDLESS))
    wait_for_chunk(client, "patient")
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
    events = list(client.watch("patient"))
    agent.start()

    assert queued == pb.RUN_STATE_QUEUED
    assert before.state == after.state == pb.RUN_STATE_RUNNING
    assert after.cause == ""
    assert held_actions(trainer) - held == 2
    assert len([c for c in causes(events, RunState.RUNNING) if c]) == 2
    assert causes(events, RunState.CANCELLED) == [""]


def test_a_disk_that_takes_no_checkpoint_is_told_and_training_goes_on(
    trainer: TrainerProcess, client: TrainerClient
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
    assert causes(list(client.watch("no-room")), RunState.CANCELLED) == [""]


def test_a_run_that_gets_nowhere_fails_with_its_cause(strict: TrainerProcess) -> None:
    """Killed, stuck or without its agent for longer than is allowed; the service goes on."""
    with TrainerClient(strict.address, budget_seconds=60) as client:
        client.submit("lonely", reinforced(1))
        lonely = list(client.watch("lonely"))
        client.submit("stuck", run_spec(chunks=ENDLESS))
        wait_for_chunk(client, "stuck")
        (process,) = strict.run_processes()
        os.kill(process, signal.SIGSTOP)
        wait_for(lambda: not is_alive(process))
        # It had trained chunks, so it is started again; this time it shall not.
        wait_for(lambda: kill_at_start(strict, client, "stuck"))
        stuck = list(client.watch("stuck"))
        client.submit("after", run_spec(chunks=1))
        after = list(client.watch("after"))

    (cause,) = causes(lonely, RunState.FAILED)
    assert "no agent service at 127.0.0.1:9" in cause
    assert "no progress for 8 s" in causes(stuck, RunState.QUEUED)[1]
    (cause,) = causes(stuck, RunState.FAILED)
    assert "-9" in cause
    assert "1 starts in a row" in cause
    assert causes(after, RunState.SUCCEEDED) == [""]


def test_two_services_side_by_side_train_as_one_does(
    trainer: TrainerProcess, strict: TrainerProcess
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
            list(client.watch("side-by-side"))
            results.append(client.get("side-by-side").result)

    for result in results:
        result.seconds = math.nan
    assert results[0].SerializeToString() == results[1].SerializeToString()
    assert results[0].weights_digest == undisturbed(spec)
