"""Files of a folder that came from elsewhere: read and written in it, and nowhere else.

Below the folder no link is followed, whether of a file or of a folder: what it names may be a
reader's own. The folder's own path is of who runs the command, and may be a link.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from agent_service.domain.errors import AgentError


def open_inside(folder: Path, name: str, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a file, made where `flags` say so; the caller closes it.

    Args:
        folder: what the file is in.
        name: below it, as in `policies/rd.policy`.
        flags: as `os.open` takes them.

    Raises:
        AgentError: the file, or the folder that it is in, is a link, or no file at all.
        FileNotFoundError: it is not there.
    """
    path = _below(folder, name)
    if path.is_symlink():
        raise _is_link(path)
    # Opening a pipe would wait for its other end.
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise AgentError(f"{path} is no file")
    return os.fdopen(number, "rb" if flags == os.O_RDONLY else "r+b")


def read_inside(folder: Path, name: str) -> bytes | None:
    """Return what is in a file; None where it is not there. Raises AgentError as `open_inside`."""
    try:
        with open_inside(folder, name) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_inside(folder: Path, name: str, data: bytes) -> None:
    """Write a file whole or not at all; a link of this name is replaced, what it names is not.

    Raises:
        AgentError: the folder that it would be in is a link or a file, or a folder has its name.
    """
    path = _below(folder, name)
    if path.is_dir() and not path.is_symlink():
        raise AgentError(f"{path} is a folder, where a file is written; move it away")
    if path.parent.exists() and not path.parent.is_dir():
        raise AgentError(f"{path.parent} is a file, where a folder belongs; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with written.open("xb") as file:
            file.write(data)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _below(folder: Path, name: str) -> Path:
    path = folder / name
    if path.parent != folder and path.parent.is_symlink():
        raise _is_link(path.parent)
    return path


def _is_link(path: Path) -> AgentError:
    return AgentError(f"{path} is a link, which is not followed; put there what it names")
