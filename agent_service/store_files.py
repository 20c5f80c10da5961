"""Whether the files of an open SQLite store are still those that were opened.

SQLite looks at no path again: it goes on in files that were moved, deleted or replaced under it,
and nobody finds what it commits there.
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
    """Holds on to the three files of a database in write-ahead mode: itself, `-wal` and `-shm`.

    A connection of its own keeps SQLite from removing the last two meanwhile. Thread-safe; close
    it after all other connections.
    """

    def __init__(self, path: Path, *, verified_by: str) -> None:
        """Take the files of a database that is there as they are now.

        Args:
            path: of the database.
            verified_by: the command that says whether it is whole, for who must decide.
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
        self._told = ""

    def check(self) -> None:
        """Return where all are as they were opened; costs a `stat` of each.

        Raises:
            Unavailable: one was moved, deleted, replaced or made smaller; what to do is logged,
                too, once.
        """
        try:
            file, wal, shm = map(os.stat, self._names)
        except OSError:
            self._refuse()
        if (file.st_dev, file.st_ino, wal.st_ino, shm.st_ino) != self._opened:
            self._refuse()
        if file.st_size < self._size:  # the service itself never makes it smaller
            self._refuse(is_smaller=True)
        self._size = file.st_size
        if self._told:
            self._told = ""
            log.info("the store %s is back", self._path)

    def _refuse(self, *, is_smaller: bool = False) -> NoReturn:
        text = self._what_to_do(is_smaller=is_smaller)
        if text != self._told:
            log.error("%s", text)
            self._told = text
        raise Unavailable(text)

    def _what_to_do(self, *, is_smaller: bool) -> str:
        """Return what happened, and what the operator must do."""
        name = self._path
        if is_smaller:
            return (
                f"the store {name} was cut, overwritten or vacuumed: stop the service and run "
                f"`{self._verified_by}`; restore a copy only if that fails"
            )
        # Wherever it is now, the file is to hold all that was acknowledged.
        self._complete()
        if self._is_in_place(0):
            return f"{name}-wal or {name}-shm was deleted or replaced: restart the service"
        return (
            f"the store {name} was moved, deleted or replaced while it is served: put that very "
            "file back, or restart the service on the one that is to be used"
        )

    def _complete(self) -> bool:
        """Bring what the log holds into the file, and return whether that is all.

        Not where another log is in its place: whoever made that writes to the same file.
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
        """Whether a name leads to the file that was opened by it."""
        try:
            found = os.stat(self._names[which])
        except OSError:
            return False
        return found.st_ino == self._opened[which + 1]

    def close(self) -> None:
        """Let go of the files; a log whose file was taken away is not left to another file."""
        is_left = not self._is_in_place(0) and self._is_in_place(1) and self._complete()
        self._connection.close()
        for name in self._names[1:] if is_left else ():
            Path(name).unlink(missing_ok=True)
