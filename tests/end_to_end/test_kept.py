"""A run leaves its weights and its last checkpoint, until they are discarded."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from agent_service.scores import macro_f1
from tests.end_to_end.processes import wait_for
from tests.end_to_end.runs import chunks_of, followed
from tests.given import ServedTrainer, run_command
from tests.trainer_service.specs import CHILD, ENDLESS, run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunSpec
from trainer_service.training.child_file import load_child
from trainer_service.training.chunk import Which
from trainer_service.training.datasets import load_images
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb


@pytest.fixture(scope="module")
def client(trainer: ServedTrainer) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        yield client


def kept(spec: RunSpec) -> RunSpec:
    return replace(spec, keep=True)


def run(client: TrainerClient, run_id: str, spec: RunSpec) -> pb.Run:
    client.submit(run_id, spec)
    list(client.watch(run_id))
    return client.get(run_id)


def checkpoints(trainer: ServedTrainer, run_id: str) -> list[Path]:
    return sorted((trainer.store.with_name("trainer.db.checkpoints") / run_id).glob("*"))


def command(trainer: ServedTrainer, *words: str) -> str:
    shown = run_command("trainer_service", *words, "--trainer", trainer.address)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_the_weights_are_those_that_were_judged(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """Through a restart of the service: the test scores are the result's, to the bit."""
    spec = kept(run_spec(Method.D, chunks=4))
    result = run(client, "judged", spec).result
    trainer.stop()
    trainer.start()
    test = load_images(spec.training, Path(".")).test
    images = test.images[torch.arange(len(test))]
    children = {which: load_child(client.weights("judged", which)) for which in Which}
    scores = {
        which: float(macro_f1(child(images).argmax(-1), test.labels, classes=10))
        for which, child in children.items()
    }

    assert scores == {Which.BEST: result.test_score_best, Which.LAST: result.test_score_last}
    assert children[Which.LAST].manifest.digest == result.weights_digest
    assert {child.manifest.run_id for child in children.values()} == {"judged"}
    assert [file.name for file in checkpoints(trainer, "judged")] == ["000000004.checkpoint"]


def test_discarded_weights_are_gone(trainer: ServedTrainer, client: TrainerClient) -> None:
    """Once or twice; the run's result stays, and so does what others keep."""
    for run_id in ("discarded", "stays"):
        run(client, run_id, kept(run_spec(chunks=1)))

    for _ in range(2):
        assert client.discard("discarded").result == client.get("discarded").result
    assert checkpoints(trainer, "discarded") == []
    with pytest.raises(FailedPrecondition, match="discarded"):
        client.weights("discarded")
    assert client.weights("stays")


@pytest.mark.parametrize(
    ("run_id", "spec", "says"),
    [
        ("unkept", run_spec(chunks=1), "was submitted without `keep`"),
        ("failed", kept(run_spec(dataset="npz:missing")), "is failed; only a run that succeeds"),
        ("diverged", kept(run_spec(chunks=50, learning_rate=1e30)), "it diverged"),
    ],
)
def test_a_run_without_weights_says_why(
    client: TrainerClient, run_id: str, spec: RunSpec, says: str
) -> None:
    """The error names the run and the reason; discarding it is no error."""
    run(client, run_id, spec)

    with pytest.raises(FailedPrecondition, match=f"'{run_id}'.*{says}"):
        client.weights(run_id)
    client.discard(run_id)


def test_a_full_disk_costs_the_checkpoint_and_not_the_result(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """A run whose last checkpoint cannot be written has succeeded, and says what it lacks."""
    folder = trainer.store.with_name("trainer.db.checkpoints")
    folder.mkdir(exist_ok=True)
    (folder / "unwritten").write_text("stands where the run's folder should")
    ended = run(client, "unwritten", kept(run_spec(chunks=2)))

    assert (ended.state, ended.trained_chunks) == (pb.RUN_STATE_SUCCEEDED, 2)
    assert ended.result.weights_digest
    with pytest.raises(FailedPrecondition, match="no checkpoint can be written: File exists"):
        client.weights("unwritten")


def test_a_running_run_has_no_weights(client: TrainerClient) -> None:
    """Nor can it be discarded; an unknown run is not found."""
    client.submit("running", kept(run_spec(chunks=ENDLESS)))
    wait_for(lambda: client.get("running").trained_chunks > 0)
    calls: tuple[Callable[[str], object], ...] = (client.weights, client.discard)
    for call in calls:
        with pytest.raises(FailedPrecondition, match="'running' is running"):
            call("running")
        with pytest.raises(NotFound, match="'nobody'"):
            call("nobody")
    client.cancel("running")
    list(client.watch("running"))

    with pytest.raises(FailedPrecondition, match="is cancelled"):
        client.weights("running")


def test_a_checkpoint_that_was_damaged_is_not_read(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """The error says so, and the service goes on."""
    run(client, "damaged", kept(run_spec(chunks=1)))
    (path,) = checkpoints(trainer, "damaged")
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(FailedPrecondition, match="'damaged': its checkpoint is damaged"):
        client.weights("damaged")


WHOLE = replace(
    run_spec(Method.D, chunks=20),
    training=replace(CHILD, method=Method.D, values={"dropout": 0.3}, chunk_size=3, chunks=20),
)
"""A run whose chunks end in the midst of epochs."""


def part(chunks: int, *, parent: str = "") -> RunSpec:
    """Return a part of WHOLE that ends after so many chunks."""
    return replace(WHOLE, training=replace(WHOLE.training, chunks=chunks), keep=True, parent=parent)


@pytest.fixture(scope="module")
def parent(client: TrainerClient) -> str:
    run(client, "parent", part(4))
    return "parent"


def test_a_continued_run_equals_one_that_was_planned_so_long(
    trainer: ServedTrainer, client: TrainerClient, parent: str
) -> None:
    """Chunks, weights and scores to the bit, through a kill and a grandchild; twice is the same."""
    whole = run(client, "unparted", WHOLE).result
    client.submit("goes-on", part(16, parent=parent))
    wait_for(lambda: client.get("goes-on").trained_chunks > 5)
    for process in trainer.run_processes():
        os.kill(process, signal.SIGKILL)
    list(client.watch("goes-on"))
    end = run(client, "goes-on-again", part(20, parent="goes-on"))
    parts = [chunks_of(followed(client, name)) for name in ("parent", "goes-on", "goes-on-again")]
    client.discard(parent)
    again = client.submit("goes-on", part(16, parent=parent))

    assert [chunk.index for chunk in parts[1]] == list(range(5, 17))
    assert [*parts[0], *parts[1], *parts[2]] == chunks_of(followed(client, "unparted"))
    assert (end.trained_chunks, end.planned_chunks) == (20, 20)
    for result in (whole, end.result):
        result.ClearField("seconds")
    assert end.result == whole
    assert again == client.get("goes-on")


def test_a_parent_stays_while_a_run_goes_on_from_it(client: TrainerClient) -> None:
    """Its checkpoint is needed until that run has ended."""
    run(client, "needed", part(1))
    client.submit("needs", part(ENDLESS, parent="needed"))
    with pytest.raises(FailedPrecondition, match="'needs' continues from 'needed'"):
        client.discard("needed")
    client.cancel("needs")
    list(client.watch("needs"))

    client.discard("needed")
    with pytest.raises(FailedPrecondition, match="'needed' has no checkpoint any more"):
        client.submit("late", part(3, parent="needed"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"chunks": 2}, ["chunks"]),
        ({"chunks": None, "epochs": 9}, ["chunks"]),
        ({"seed": 1}, ["seed"]),
        ({"label_noise": 0.5, "width": 0.5}, ["data.label_noise", "child.width"]),
        ({"method": Method.NI, "values": {}}, ["method"]),
    ],
)
def test_only_what_is_its_own_may_differ_from_the_parent(
    client: TrainerClient, changes: dict[str, Any], named: list[str]
) -> None:
    """Refused by the paths of the contract before it is queued; other values are its own."""
    run(client, "short", part(2))
    good = part(3, parent="short")
    bad = replace(good, training=replace(good.training, **changes))

    with pytest.raises(InvalidArgument) as raised:
        client.submit("bad", bad)
    assert [v.field for v in raised.value.violations] == [f"spec.{name}" for name in named]
    with pytest.raises(NotFound, match="'nobody'"):
        client.submit("bad", replace(good, parent="nobody"))


def test_the_commands_bring_weights_and_discard_them(
    trainer: ServedTrainer, client: TrainerClient, tmp_path: Path
) -> None:
    """With submit --keep, weights and discard, as a person types them."""
    small = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
    command(trainer, "submit", "begins", *small.split(), "--chunks", "1", "--keep")
    list(client.watch("begins"))
    command(trainer, "submit", "typed", "--parent", "begins", "--chunks", "2", "--keep")
    list(client.watch("typed"))
    file = tmp_path / "child.safetensors"
    shown = command(trainer, "weights", "typed", str(file), "--last")
    discarded = command(trainer, "discard", "typed")

    assert [chunk.index for chunk in chunks_of(followed(client, "typed"))] == [2]
    assert "the last weights of typed, validation F1 0." in shown
    assert load_child(file.read_bytes()).manifest.which is Which.LAST
    assert discarded == "typed has no checkpoint any more\n"
