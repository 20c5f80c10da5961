"""Folders of checkpoints: on this disk, and behind URLs of fsspec."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pytest
import torch

from agent_service.domain.errors import InvalidArgument
from trainer_service.training.checkpoint import Checkpoints, has_checkpoints, leave_newest
from trainer_service.training.folder import Folder, open_folder

PLACES: dict[str, Callable[[Path], str]] = {
    "path": str,
    "file": Path.as_uri,
    "memory": lambda _path: f"memory://{uuid4()}/checkpoints",
    "fsspec on disk": lambda path: f"local://{path}/not-yet-there/",
}


@pytest.fixture(params=PLACES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return open_folder(PLACES[request.param](tmp_path))


def writes(data: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


def content(folder: Folder, name: str) -> bytes:
    with folder.read(name) as file:
        return file.read()


def test_what_is_written_is_read_until_it_is_removed(folder: Folder) -> None:
    """Files and folders are distinct; missing ones are empty, and removed without error."""
    run = folder.folder("run")
    nothing = (run.files(), run.folders(), folder.files())
    run.write("one", writes(b"1"))
    run.write("one", writes(b"one"))
    run.write("two", writes(b"two"))
    folder.write("mark", writes(b"mark"))

    assert nothing == ([], [], [])
    assert (sorted(run.files()), folder.folders(), folder.files()) == (
        ["one", "two"],
        ["run"],
        ["mark"],
    )
    assert (content(run, "one"), content(folder, "mark")) == (b"one", b"mark")
    for _ in range(2):
        run.remove("one")
    assert run.files() == ["two"]
    for _ in range(2):
        run.remove_all()
    assert (run.files(), folder.folders(), folder.files()) == ([], [], ["mark"])


def test_a_file_is_there_whole_or_not_at_all(folder: Folder) -> None:
    """A write that fails leaves the old file."""

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no room")

    folder.write("file", writes(b"whole"))
    with pytest.raises(OSError, match="no room"):
        folder.write("file", write)

    assert folder.files() == ["file"]
    assert content(folder, "file") == b"whole"


def test_checkpoints_of_all_folders_are_alike(folder: Folder) -> None:
    """The newest two stay, a torn one is passed over, another run's is not used."""
    checkpoints = Checkpoints(folder, origin="o")
    for chunk in (8, 9, 10):
        checkpoints.save(chunk, {"weights": torch.full((3,), float(chunk))})
    names = sorted(folder.files())
    newest = checkpoints.newest(up_to=99)
    torn = content(folder, "000000010.checkpoint")[:-10]
    folder.write("000000010.checkpoint", writes(torn))
    before = checkpoints.newest(up_to=99)

    assert names == ["000000009.checkpoint", "000000010.checkpoint"]
    assert newest is not None
    assert before is not None
    assert (newest["weights"].tolist(), before["weights"].tolist()) == ([10.0] * 3, [9.0] * 3)
    assert Checkpoints(folder, origin="another").newest(up_to=99) is None
    leave_newest(folder)
    assert folder.files() == ["000000010.checkpoint"]
    folder.remove_all()
    assert not has_checkpoints(folder)


def test_what_cannot_be_read_is_not_taken_for_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is there and cannot be read is an error: else its run would start over."""

    def read(_folder: Folder, _name: str) -> None:
        raise OSError("it is away")

    folder.write("000000001.checkpoint", writes(b""))
    monkeypatch.setattr(type(folder), "read", read)

    with pytest.raises(OSError, match="away"):
        Checkpoints(folder, origin="o").newest(up_to=1)


def test_errors_of_file_systems_are_ours() -> None:
    """As OSError, with the URL: one that can list nothing, and a file that is not there."""
    with pytest.raises(OSError, match=r"NotImplementedError.*data://path"):
        open_folder("data://path").files()
    with pytest.raises(OSError, match="memory://nothing"):
        open_folder("memory://nothing").read("file")


@pytest.mark.parametrize(("url", "says"), [("nowhere://x", "nowhere"), ("s3://x", "s3fs")])
def test_a_url_that_nothing_knows_is_refused(url: str, says: str) -> None:
    """By the option's name, with what to install where that is known."""
    with pytest.raises(InvalidArgument, match=f"^storage: {url} cannot be used: .*{says}"):
        open_folder(url)
