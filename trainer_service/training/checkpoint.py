"""Checkpoints of one run in a folder: written whole or not at all, checked before they are used.

A file is a header (mark, format number, SHA-256 of the rest) and what `torch.save` writes. That
streams tensor by tensor, so that saving takes no second copy of the weights, and takes nested
values as optimizers have them; it is read with `weights_only=True`, which runs no code of the file.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BufferedReader
from typing import IO, Any, BinaryIO, cast

import torch

from trainer_service.training.folder import Folder

log = logging.getLogger(__name__)

FORMAT = 1
"""Number of the form that is written here; others are not read."""
KEPT = 2
"""Files that stay: the newest, and the one before in case that one is damaged."""
_HEADER = struct.Struct("<16sI32s")
_MARK = b"child-checkpoint"
_SUFFIX = ".checkpoint"
_NAME = re.compile(rf"[0-9]{{9}}{re.escape(_SUFFIX)}")
_UNFINISHED = re.compile(rf"{_NAME.pattern}\.[0-9]+")
"""As a folder of this machine names what is not written yet, by the process."""


SHARE = 0.01
"""Largest share of a run's time that checkpoints take if no interval is set."""
ASSUMED_BYTES_PER_SECOND = 100e6
"""How fast the first one is written, before that is known."""
SHORTEST_SECONDS = 0.01
"""Lower bound of a checkpoint's cost: waiting for the disk disturbs more than this process."""


class Pace:
    """Schedules checkpoints, for all children of a process at the same chunk."""

    def __init__(
        self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without children.

        Args:
            seconds: between two of a child; 0 makes one at each chunk's end, None waits 1 / SHARE
                times as long as the last ones of all children took.
            clock: seconds.
        """
        self._seconds = seconds
        self._clock = clock
        self._took = 0.0
        """How long those of the last chunk took, or the first ones should take."""
        self._next = 0.0
        self._due_chunk = 0
        """The chunk that they are due at, or were last."""

    def expect(self, size: int) -> None:
        """Wait for the first one of another child, of so many bytes, roughly."""
        self.took(size / ASSUMED_BYTES_PER_SECOND)

    def is_due(self, chunk: int) -> bool:
        """Whether it is time for one at the end of this chunk."""
        if chunk != self._due_chunk and self._clock() >= self._next:
            self._due_chunk, self._took = chunk, 0.0
        return chunk == self._due_chunk

    def took(self, seconds: float) -> None:
        """Wait from now on, for those after the ones of which one has just taken so long."""
        self._took += seconds
        wait = self._seconds
        if wait is None:
            wait = max(self._took, SHORTEST_SECONDS) / SHARE
        self._next = self._clock() + wait


class _Unusable(Exception):
    """A file that must not be used; the message says why."""


class Checkpoints:
    """A run's newest checkpoints, in a folder of its own."""

    def __init__(self, folder: Folder, *, origin: str) -> None:
        """Name the folder of one run; checkpoints of another origin in it are not used."""
        self._folder = folder
        self._origin = origin

    def save(self, chunk: int, content: Mapping[str, Any]) -> None:
        """Write what was there at a chunk's end; once this returns it outlives a loss of power.

        Args:
            chunk: its index; a later checkpoint has a larger one.
            content: of tensors, numbers, texts, lists, tuples and dicts.

        Raises:
            OSError: it cannot be written, as on a full disk; those from before stay.
        """
        value = {"origin": self._origin, "content": dict(content)}
        self._folder.write(f"{chunk:09d}{_SUFFIX}", lambda file: _write(file, value))
        _leave(self._folder, KEPT)

    def newest(self, *, up_to: int) -> dict[str, Any] | None:
        """Return the content of the newest good one, up to a chunk; the log names the others.

        Returns:
            The content given to `save`, tensors on the CPU; None if there is no checkpoint.

        Raises:
            OSError: the folder cannot be read.
        """
        unread: OSError | None = None
        for name in _names(self._folder):
            try:
                if int(name.removesuffix(_SUFFIX)) > up_to:
                    raise _Unusable(f"what came before is known only up to chunk {up_to}")
                return self._read(name)
            except (_Unusable, OSError) as error:
                log.warning("checkpoint %s/%s is not used: %s", self._folder, name, error)
                if isinstance(error, OSError):
                    unread = error
        if unread is not None:
            raise unread
        return None

    def _read(self, name: str) -> dict[str, Any]:
        with self._folder.read(name) as file:
            read = _checked(file)
        if read["origin"] != self._origin:
            raise _Unusable("it is of another run")
        content: dict[str, Any] = read["content"]
        return content


def has_checkpoints(folder: Folder) -> bool:
    """Whether there is any checkpoint of a run; raises OSError if the folder cannot be read."""
    return bool(_names(folder))


def remove_unfinished(folder: Folder) -> None:
    """Remove what killed processes left of checkpoints; none may be at work on this run."""
    for name in folder.files():
        if _UNFINISHED.fullmatch(name):
            folder.remove(name)


def leave_newest(folder: Folder) -> None:
    """Remove a run's checkpoints but the newest; what cannot be removed now stays."""
    with suppress(OSError):
        _leave(folder, 1)


def _leave(folder: Folder, count: int) -> None:
    for old in _names(folder)[count:]:
        folder.remove(old)


def _names(folder: Folder) -> list[str]:
    """Return the names of checkpoints, newest first."""
    return sorted((name for name in folder.files() if _NAME.fullmatch(name)), reverse=True)


class _Hashed:
    """A file to write to, which keeps the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write(file: BinaryIO, value: object) -> None:
    file.write(bytes(_HEADER.size))
    body = _Hashed(file)
    try:
        # torch asks for no more of a file than it has.
        torch.save(_without_views(value), cast(IO[bytes], body))
    except RuntimeError as error:
        # Whatever ends the writing, torch then fails to close the file, and hides it behind this.
        raise error.__context__ or error from None
    file.seek(0)
    file.write(_HEADER.pack(_MARK, FORMAT, body.digest.digest()))


def _without_views(value: Any) -> Any:
    """Return a nested value with tensors of their own: a view is saved with all that it shows.

    A child that trains alone has none; the tensors of stacked ones are views into the stack's.
    """
    match value:
        case torch.Tensor():
            is_whole = value.untyped_storage().nbytes() == value.nbytes
            return value if is_whole else value.clone()
        case dict():
            return {key: _without_views(part) for key, part in value.items()}
        case list():
            return [_without_views(part) for part in value]
    return value


def _checked(file: BufferedReader) -> dict[str, Any]:
    """Return the value of a file; raises _Unusable where it is not whole, or no checkpoint."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _Unusable(f"it is cut off after {len(header)} bytes")
    mark, number, digest = _HEADER.unpack(header)
    if mark != _MARK:
        raise _Unusable("it is no checkpoint")
    if number != FORMAT:
        raise _Unusable(f"its format is {number}; this version reads {FORMAT}")
    if hashlib.file_digest(file, "sha256").digest() != digest:
        raise _Unusable("it is torn or damaged: its checksum is another")
    file.seek(_HEADER.size)
    try:
        value: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Unusable("it holds other things than values and tensors") from error
    return value
