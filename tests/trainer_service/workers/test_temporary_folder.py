"""Temporary folders of killed trainer services are cleaned up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVICE = """
from multiprocessing.util import get_temp_dir
from trainer_service.workers.temporary_folder import temporary_folder
with temporary_folder():
    print(get_temp_dir(), flush=True)
    input()
"""


@contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield a process that holds its temporary folder inside `folder`, and that folder's path."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_only_folders_of_killed_services_are_removed(tmp_path: Path) -> None:
    """Folders of running services, of other programs, and targets of symbolic links stay."""
    others = tmp_path / "pymp-others"
    others.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "trainer-service.lock").touch()
    (tmp_path / "pymp-link").symlink_to(tmp_path / "elsewhere")
    with service(tmp_path) as (killed, left), service(tmp_path) as (_living, lives):
        (left / "listener").touch()
        killed.kill()
        killed.wait()
        assert left.exists()

        with service(tmp_path) as (ending, own):
            folders = {path for path in tmp_path.glob("pymp-*")}
            assert folders == {others, tmp_path / "pymp-link", lives, own}
            ending.communicate("\n")
        assert not own.exists()

    assert (tmp_path / "elsewhere" / "trainer-service.lock").exists()


def test_folders_of_other_users_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the service has permission to remove them."""
    from trainer_service.workers import temporary_folder

    with service(tmp_path) as (killed, left):
        killed.kill()

    with monkeypatch.context() as changed:
        changed.setattr(os, "getuid", lambda: left.stat().st_uid + 1)
        assert not temporary_folder._is_abandoned(left)
    assert temporary_folder._is_abandoned(left)
