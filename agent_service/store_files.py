"""Detects that the files of an open SQLite store were moved, deleted or replaced.

SQLite does not check paths again: it would keep committing to files that nobody can find.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import NoReturn

from agent_service.domain.errors import Unavailable

log = logging.getLogger(__name__)


class StoreFiles:
    """Watches the three files of a database in WAL mode: itself, `-wal` and `-shm`.

    Its own connection keeps SQLite from removing the last two. Thread-safe; close it after all
    other connections.
    """

    def __init__(self, path: Path, *, verified_by: str) -> None:
        """Remember the current files of an existing database.

        Args:
            path: the database.
            verified_by: the command that verifies the store, for the error message.
        """
        self._path = path
        self._verified_by = verified_by
        self._names = (str(path), f"{path}-wal", f"{path}-shm")
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        file, *others = map(os.stat, self._names)
        self._opened = (file.st_dev, file.st_ino, *(other.st_ino for other in others))
        self._size = file.st_size
        self._logged = ""

    def check(self) -> None:
        """Check that the files are those that were opened; costs a `stat` of each.

        Raises:
            Unavailable: one was moved, deleted, replaced or truncated; the message, which says what
                to do, is also logged once.
        """
        try:
            file, wal, shm = map(os.stat, self._names)
        except OSError:
            self._refuse()
        if (file.st_dev, file.st_ino, wal.st_ino, shm.st_ino) != self._opened:
            self._refuse()
        if file.st_size < self._size:  # the service itself never shrinks it
            self._refuse(is_smaller=True)
        self._size = file.st_size
        if self._logged:
            self._logged = ""
            log.info("the store %s is back", self._path)

    def _refuse(self, *, is_smaller: bool = False) -> NoReturn:
        text = self._what_to_do(is_smaller=is_smaller)
        if text != self._logged:
            log.error("%s", text)
            self._logged = text
        raise Unavailable(text)

    def _what_to_do(self, *, is_smaller: bool) -> str:
        """Return what happened, and what the operator must do."""
        name = self._path
        if is_smaller:
            return (
                f"the store {name} was truncated, overwritten or vacuumed: stop the service and "
                f"run `{self._verified_by}`; restore a copy only if that fails"
            )
        # Wherever the file is now, it must contain all acknowledged data.
        self._complete()
        if self._is_in_place(0):
            return f"{name}-wal or {name}-shm was deleted or replaced: restart the service"
        return (
            f"the store {name} was moved, deleted or replaced while it is served: put that file "
            "back, or restart the service to use the present one"
        )

    def _complete(self) -> bool:
        """Checkpoint the write-ahead log into the file; return whether all of it is there.

        Not if there is another log in its place: its creator writes to the same file.
        """
        if os.path.exists(self._names[1]) and not self._is_in_place(1):
            return False
        try:
            found = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:
            return False
        _is_busy, pages, done = found
        return bool(pages == done)

    def _is_in_place(self, which: int) -> bool:
        """Whether a name still refers to the file that was opened by it."""
        try:
            found = os.stat(self._names[which])
        except OSError:
            return False
        return found.st_ino == self._opened[which + 1]

    def close(self) -> None:
        """Close the files; remove the log if its database is gone, so that no other one uses it."""
        is_left = not self._is_in_place(0) and self._is_in_place(1) and self._complete()
        self._connection.close()
        for name in self._names[1:] if is_left else ():
            Path(name).unlink(missing_ok=True)
