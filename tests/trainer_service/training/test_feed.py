"""Feeds: a streamed split is a resident one to the bit, in its order, whatever goes wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer_service.training.datasets.layouts import write_classes
from trainer_service.training.datasets import DataError, Split, load_images
from trainer_service.training.datasets import load as loading
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.feed import feed as feeds
from trainer_service.training.feed.feed import ResidentFeed, StreamedFeed, choose_feed
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Augment, Method, Model, TrainingSpec

CPU = torch.device("cpu")
SPEC = TrainingSpec(
    dataset="folder:faces",
    model=Model.RESNET18,
    width=0.0625,
    batch_size=16,
    chunk_size=2,
    validation_batches=2,
    chunks=3,
    method=Method.D,
    augment=Augment.CROP_FLIP,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "faces")
    return tmp_path


def both(root: Path) -> tuple[Split, Split]:
    """Return the training split in memory, and as files."""
    resident, streamed = (load_images(SPEC, root, m) for m in (Memory.RESIDENT, Memory.STREAMED))
    assert isinstance(resident.training.images, torch.Tensor)
    assert isinstance(streamed.training.images, ImageFiles)
    return resident.training, streamed.training


def places(seed: int) -> list[torch.Tensor]:
    order = torch.randperm(43, generator=torch.Generator().manual_seed(seed))
    return list(torch.split(order, 10))


@pytest.mark.parametrize("piece", [256, 4])
def test_streamed_batches_are_the_resident_ones(
    monkeypatch: pytest.MonkeyPatch, root: Path, piece: int
) -> None:
    """Read whole or in pieces, again and again, and after an iteration that was left halfway."""
    monkeypatch.setattr(feeds, "PIECE", piece)
    in_memory, files = both(root)
    resident = ResidentFeed(in_memory, CPU)

    for streamed in (StreamedFeed(files, CPU), StreamedFeed(in_memory, CPU)):
        assert streamed.labels.equal(resident.labels)
        for seed in range(3):
            expected = list(resident.batches(places(seed)))
            found = list(streamed.batches(places(seed)))
            assert [len(batch) for batch in found] == [10, 10, 10, 10, 3]
            assert all(a.equal(b) for a, b in zip(expected, found, strict=True))
            next(streamed.batches(places(9)))


def test_a_streamed_training_is_the_resident_one(root: Path) -> None:
    """Chunks and scores to the bit: noise, augmentation and order draw nothing else."""
    results = []
    for memory in (Memory.RESIDENT, Memory.STREAMED):
        child = ChildTraining(SPEC, load_images(SPEC, root, memory), CPU)
        chunks = [child.train_chunk({"dropout": 0.3}) for _ in range(3)]
        results.append(([replace(chunk, seconds=0) for chunk in chunks], child.finish()))

    assert results[0] == results[1]


def test_an_unreadable_image_is_an_error_at_its_batch(root: Path) -> None:
    """By its path, in one line, and the batches before it still come."""
    _in_memory, files = both(root)
    assert isinstance(files.images, ImageFiles)
    Path(files.images.paths[12]).write_bytes(b"torn")

    batches = StreamedFeed(files, CPU).batches(torch.split(torch.arange(20), 10))

    assert len(next(batches)) == 10
    with pytest.raises(DataError, match=r"^\S+\.png is no readable image; remove or replace it"):
        next(batches)


def test_a_killed_reader_is_an_error(root: Path) -> None:
    """The training ends with the cause instead of waiting for ever."""
    _in_memory, files = both(root)
    before = {process.pid for process in multiprocessing.active_children()}
    batches = StreamedFeed(files, CPU).batches(torch.split(torch.arange(40).repeat(100), 4))
    next(batches)
    readers = [p for p in multiprocessing.active_children() if p.pid not in before]
    assert readers

    for reader in readers:
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGKILL)
    with pytest.raises((DataError, RuntimeError), match=r"DataLoader worker|reads images died"):
        for _ in batches:
            pass


STREAMING = """
import signal, sys
from pathlib import Path
import torch
from trainer_service.training.datasets.folder import read_folder
from trainer_service.training.feed.feed import StreamedFeed

split = read_folder(Path(sys.argv[1])).splits["train"]
batches = StreamedFeed(split, torch.device("cpu")).batches(torch.split(torch.arange(60), 2))
next(batches)
print("streaming", flush=True)
signal.pause()
"""


def test_readers_end_with_the_training_however_it_ends(root: Path) -> None:
    """A killed training leaves no process: its output, which they inherit, comes to an end."""
    training = subprocess.Popen(
        [sys.executable, "-c", STREAMING, str(root / "faces")], stdout=subprocess.PIPE, text=True
    )
    assert training.stdout is not None
    assert training.stdout.readline() == "streaming\n"

    training.kill()

    assert training.communicate(timeout=60)[0] == ""


@pytest.mark.parametrize(
    ("free", "memory", "kind"),
    [
        (10**9, Memory.AUTO, ResidentFeed),
        (3_000, Memory.AUTO, StreamedFeed),
        (3_000, Memory.RESIDENT, ResidentFeed),
        (10**9, Memory.STREAMED, StreamedFeed),
    ],
)
def test_free_memory_decides_unless_the_user_does(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    root: Path,
    free: int,
    memory: Memory,
    kind: type,
) -> None:
    """The set's 5,400 bytes may take half of what is free; the log says what became of it."""
    measured: Callable[[int, torch.device], bool] = lambda size, _device: 2 * size <= free  # noqa: E731
    monkeypatch.setattr(loading, "fits", measured)
    monkeypatch.setattr(feeds, "free_bytes", lambda _device: free)

    with caplog.at_level("INFO"):
        images = load_images(SPEC, root, memory)
        chosen = choose_feed(images, CPU)

    assert isinstance(chosen(images.training, CPU), kind)
    words = "resident" if kind is ResidentFeed else "streamed"
    assert f"images are {words}" in caplog.text


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device("cuda:0")


def test_batches_streamed_to_a_gpu_are_the_resident_ones(root: Path, gpu: torch.device) -> None:
    """Copied ahead from pinned memory on a stream of their own, and never torn by it."""
    in_memory, files = both(root)
    order = [part.to(gpu) for part in places(0) * 20]
    expected = list(ResidentFeed(in_memory, gpu).batches(order))

    for split in (files, in_memory):
        found = [batch.clone() for batch in StreamedFeed(split, gpu).batches(order)]
        assert all(a.equal(b) for a, b in zip(expected, found, strict=True))
