"""Checkpoints: exact, whole or not at all, and the newest good one."""

import logging
import resource
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainer_service.specs import CHILD, CPU, digits, new_child, values
from trainer_service.training import checkpoint
from trainer_service.training.checkpoint import Checkpoints, Pace
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.folder import open_folder
from trainer_service.training.loop import ChildTraining
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import Augment
from trainer_service.training.stacked import StackedTraining

# Chunks end in the midst of epochs of four steps.
SHAPE: dict[str, Any] = {"chunk_size": 3, "chunks": 5}


def train(training: ChildTraining, chunks: int) -> list[Chunk]:
    its_values = values(training.spec)
    return [replace(training.train_chunk(its_values), seconds=0.0) for _ in range(chunks)]


def checkpoints_in(folder: Path) -> Checkpoints:
    return Checkpoints(open_folder(str(folder)), origin="o")


def damage(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("method", training_methods())
def test_a_training_goes_on_from_its_checkpoint_to_the_same_bits(
    method: str, tmp_path: Path
) -> None:
    """Chunks, weights and scores, through a file, whatever was drawn meanwhile."""
    checkpoints = checkpoints_in(tmp_path)
    child, again = (new_child(method=method, **SHAPE) for _ in range(2))
    train(child, 2)
    checkpoints.save(2, child.state())
    chunks = train(child, 3)
    digest, scores = child.weights_digest(), child.finish()

    torch.rand(7)
    state = checkpoints.newest(up_to=99)
    assert state is not None
    again.restore(state)

    assert again.trained_chunks == 2
    assert train(again, 3) == chunks
    assert (again.weights_digest(), again.finish()) == (digest, scores)


@pytest.mark.parametrize("memory", [Memory.RESIDENT, Memory.STREAMED])
def test_augmentation_and_reading_ahead_go_on_as_well(memory: Memory, tmp_path: Path) -> None:
    """Images that were read ahead of the checkpoint are read again, and augmented as they were."""
    spec = replace(CHILD, augment=Augment.CROP_FLIP, **SHAPE)
    child, again = (ChildTraining(spec, replace(digits(), memory=memory), CPU) for _ in range(2))
    checkpoints = checkpoints_in(tmp_path)
    train(child, 2)
    checkpoints.save(2, child.state())
    chunks = train(child, 1)

    state = checkpoints.newest(up_to=2)
    assert state is not None
    again.restore(state)

    assert train(again, 1) == chunks


@pytest.mark.parametrize("place", [0, 17, 25, 100, -1])
def test_a_damaged_checkpoint_is_skipped_and_named(
    place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit in the mark, the format, the checksum or the content: the one before is used."""
    checkpoints = checkpoints_in(tmp_path)
    for chunk in (1, 2):
        checkpoints.save(chunk, {"weights": torch.full((100,), float(chunk))})
    damage(tmp_path / "000000002.checkpoint", place)

    with caplog.at_level(logging.WARNING):
        content = checkpoints.newest(up_to=99)

    assert content is not None
    assert content["weights"][0] == 1.0
    assert "000000002.checkpoint is not used" in caplog.text


def test_a_torn_checkpoint_is_skipped_wherever_it_ends(tmp_path: Path) -> None:
    """Cut anywhere, it is not used."""
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, {"weights": torch.ones(100)})
    path = tmp_path / "000000001.checkpoint"
    whole = path.read_bytes()

    for length in (0, 10, 52, 53, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert checkpoints.newest(up_to=99) is None
    path.write_bytes(whole)
    assert checkpoints.newest(up_to=99) is not None


def test_a_checkpoint_ahead_of_what_is_known_is_not_used(tmp_path: Path) -> None:
    """The one before is: otherwise nobody would report the chunks in between."""
    checkpoints = checkpoints_in(tmp_path)
    for chunk in (4, 6):
        checkpoints.save(chunk, {"chunk": chunk})

    assert checkpoints.newest(up_to=6) == {"chunk": 6}
    assert checkpoints.newest(up_to=5) == {"chunk": 4}
    assert checkpoints.newest(up_to=3) is None


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """Its checksum may be right: what is no plain value or tensor is not loaded."""
    checkpoints_in(tmp_path).save(1, {"code": test_a_checkpoint_runs_no_code})

    assert checkpoints_in(tmp_path).newest(up_to=99) is None


def test_a_full_disk_leaves_the_checkpoints_from_before(tmp_path: Path) -> None:
    """The error is the disk's own; half a file does not stay."""
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, {"chunk": 1})
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(2, {"weights": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, heard)

    assert [path.name for path in tmp_path.iterdir()] == ["000000001.checkpoint"]
    assert checkpoints.newest(up_to=99) == {"chunk": 1}


@pytest.mark.parametrize("place", range(3))
def test_what_interrupts_a_checkpoint_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """A run that is cancelled meanwhile tells the agent so; torch hides it behind another error."""

    class Cancelled(BaseException):
        pass

    class Interrupted:
        calls = 0

        def update(self, _data: bytes) -> None:
            self.calls += 1
            if self.calls > place:
                raise Cancelled

    checkpoints = checkpoints_in(tmp_path)
    monkeypatch.setattr(checkpoint, "hashlib", SimpleNamespace(sha256=Interrupted))

    with pytest.raises(Cancelled):
        checkpoints.save(1, {"weights": torch.ones(100_000)})
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_take_a_hundredth_of_the_time() -> None:
    """After one that took 2 s the next is due 200 s later; the first by what it should take."""
    now = 0.0
    pace = Pace(None, clock=lambda: now)
    pace.expect(int(checkpoint.ASSUMED_BYTES_PER_SECOND))

    for chunk, (start, took) in enumerate(((0.0, 1.0), (100.0, 2.0)), start=1):
        now = start + took / checkpoint.SHARE - 0.1
        assert not pace.is_due(10 * chunk)
        now += 0.2
        assert pace.is_due(10 * chunk + 1)
        now = start + took / checkpoint.SHARE
        pace.took(2.0)


def test_checkpoints_of_runs_together_share_that_hundredth() -> None:
    """All of a chunk are due once one is, and the next ones when the time of all says so."""
    now = 0.0
    pace = Pace(None, clock=lambda: now)
    for _child in range(3):
        pace.expect(int(checkpoint.ASSUMED_BYTES_PER_SECOND))

    now = 3.0 / checkpoint.SHARE - 0.1
    early = [pace.is_due(4) for _child in range(3)]
    now += 0.2
    due = []
    for took in (2.0, 3.0, 4.0):
        due.append(pace.is_due(5))
        pace.took(took)
    now += 9.0 / checkpoint.SHARE - 0.1

    assert early == [False] * 3
    assert due == [True] * 3
    assert not pace.is_due(6)
    now += 0.2
    assert pace.is_due(7)


def test_an_interval_can_be_given() -> None:
    """Zero is always due, ten is due after ten seconds, whatever one takes."""
    now = 0.0
    always, pace = (Pace(seconds, clock=lambda: now) for seconds in (0.0, 10.0))
    for each in (always, pace):
        each.expect(10**9)
    assert always.is_due(1)
    always.took(7.0)
    assert always.is_due(2)
    assert not pace.is_due(2)
    now = 10.0
    assert pace.is_due(3)


def test_a_stacked_child_is_saved_without_the_others(tmp_path: Path) -> None:
    """As large as one that trains alone, and it goes on alone as it would have there."""
    alone, *others = (new_child(seed=s, learning_rate=1e-4, **SHAPE) for s in (1, 1, 2, 3))
    StackedTraining(others).train_chunk([{}] * 3)
    alone.train_chunk({})
    saved = {name: checkpoints_in(tmp_path / name) for name in ("alone", "stacked")}
    for name, child in (("alone", alone), ("stacked", others[0])):
        saved[name].save(1, child.state())
    sizes = [next((tmp_path / name).iterdir()).stat().st_size for name in saved]
    state = saved["stacked"].newest(up_to=1)
    assert state is not None
    again = new_child(seed=1, learning_rate=1e-4, **SHAPE)
    again.restore(state)

    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert again.train_chunk({}).losses == pytest.approx(alone.train_chunk({}).losses, rel=2e-3)
