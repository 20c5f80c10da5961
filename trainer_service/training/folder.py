"""Folders that checkpoints lie in: on this machine's disk, or behind any URL that fsspec knows."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from agent_service.domain.errors import invalid


class Folder(ABC):
    """A folder of files that are written once, and of folders; made with the first file in it.

    Its methods raise OSError, saying what went wrong.
    """

    @abstractmethod
    def folder(self, name: str) -> Folder:
        """Return a folder in it."""

    @abstractmethod
    def folders(self) -> Sequence[str]:
        """Return the names of the folders in it; none where it is not there."""

    @abstractmethod
    def files(self) -> Sequence[str]:
        """Return the names of finished files in it; none where it is not there."""

    @abstractmethod
    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file by `write`, whole; once this returns it stays, through a loss of power."""

    @abstractmethod
    def read(self, name: str) -> BufferedReader:
        """Open a file, to be closed by the caller."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; what cannot be removed now stays."""

    @abstractmethod
    def remove_all(self) -> None:
        """Remove all that is in it; what cannot be removed now is left to a later call."""


def open_folder(place: str) -> Folder:
    """Return the folder at a path or URL; raises InvalidArgument where nothing knows that URL."""
    url = urlsplit(place)
    if url.scheme in ("", "file"):
        return _LocalFolder(Path(unquote(url.path) if url.scheme else place).absolute())
    # fsspec's file systems take their time to be imported; most services need none.
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(place)
        return _RemoteFolder(system, path, place)
    except (ImportError, ValueError, OSError) as error:
        raise invalid("storage", f"{place} cannot be used: {error}") from error


class _LocalFolder(Folder):
    """A folder on a file system of this machine; files are renamed into place, and synced."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def folder(self, name: str) -> _LocalFolder:
        return _LocalFolder(self._path / name)

    def folders(self) -> Sequence[str]:
        return [path.name for path in self._entries() if path.is_dir()]

    def files(self) -> Sequence[str]:
        return [path.name for path in self._entries() if path.is_file()]

    def _entries(self) -> Sequence[Path]:
        try:
            return list(self._path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        path = self._path / name
        # Another process may be about to end that still writes the same one.
        unfinished = self._path / f"{name}.{os.getpid()}"
        try:
            with unfinished.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        _sync(self._path)

    def read(self, name: str) -> BufferedReader:
        return (self._path / name).open("rb")

    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self._path / name).unlink()

    def remove_all(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class _RemoteFolder(Folder):
    """A folder of a file system that fsspec knows, as of an object store.

    A file is written here first, and then goes there as one object. Where a store shows a torn one
    all the same, its checksum shows it.
    """

    def __init__(self, system: Any, path: str, url: str) -> None:
        """Take fsspec's file system, the folder's path within it, and its URL for messages."""
        self._system = system
        self._path = path.rstrip("/")
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def folder(self, name: str) -> _RemoteFolder:
        return _RemoteFolder(self._system, f"{self._path}/{name}", f"{self._url}/{name}")

    def folders(self) -> Sequence[str]:
        return self._names("directory")

    def files(self) -> Sequence[str]:
        return self._names("file")

    def _names(self, kind: str) -> Sequence[str]:
        # Other machines write there too, so that nothing may be remembered.
        self._system.invalidate_cache()
        with self._errors():
            try:
                entries = self._system.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
        names = [e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == kind]
        return [name for name in names if name]

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        with tempfile.NamedTemporaryFile(dir=get_temp_dir()) as file:
            write(cast(BinaryIO, file))
            file.flush()
            with self._errors():
                self._system.makedirs(self._path, exist_ok=True)
                self._system.put_file(file.name, f"{self._path}/{name}")

    def read(self, name: str) -> BufferedReader:
        with tempfile.NamedTemporaryFile(dir=get_temp_dir()) as file:
            with self._errors():
                self._system.get_file(f"{self._path}/{name}", file.name)
            # Open it stays, though its name goes.
            return Path(file.name).open("rb")

    def remove(self, name: str) -> None:
        with suppress(OSError), self._errors():
            self._system.rm_file(f"{self._path}/{name}")

    def remove_all(self) -> None:
        with suppress(OSError), self._errors():
            self._system.rm(self._path, recursive=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what a file system raises as OSError; each has errors of its own kind."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO, error.strerror or str(error), self._url
            ) from error
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise OSError(errno.EIO, text, self._url) from error
