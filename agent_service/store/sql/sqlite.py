"""A store in a SQLite file, the default."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import invalid
from agent_service.domain.store import Durability
from agent_service.store.sql.database import Database, Locked, StoreError
from agent_service.store.sql.failures import explain, is_locked
from agent_service.store_files import StoreFiles

LOCK_SECONDS = 10.0
"""How long a reader or a migration waits for another process's lock."""
LOG_BYTES = 8 * 2**20
"""Size to which the write-ahead log is truncated when it is reset.

It is reset at some 4 MiB, unless somebody keeps a reading transaction open, such as a dashboard on
the file: until that ends, the log grows with every commit.
"""
_SYNCING = {
    Durability.POWER: ("synchronous = FULL",),
    # In WAL mode NORMAL syncs only at checkpoints; the file stays consistent whatever happens.
    # SQLite checkpoints within a commit only if the journal has not done so long before.
    Durability.PROCESS: ("synchronous = NORMAL", "wal_autocheckpoint = 4000"),
}


class SqliteDatabase(Database):
    """A database in a file of this machine."""

    is_server = False

    def __init__(self, url: sa.URL, durability: Durability) -> None:
        """Take a URL; raises InvalidArgument if it names no file."""
        if url.database in (None, "", ":memory:"):
            raise invalid("store", "give a file, e.g. sqlite:///agent.db; the learner reads it too")
        super().__init__(url, durability)
        self._durability = durability
        self._path = Path(url.database or "")
        self._held = ExitStack()

    @property
    def folder(self) -> Path:
        """The folder of its files, as an absolute path."""
        return self._path.resolve().parent

    def require(self) -> None:
        """Check that the file is there and holds something; raises StoreError."""
        if not self._path.is_file():
            raise StoreError(f"store {self.url}: there is no file {self._path}")
        # One that was emptied still has its log; `prepare` says so.
        if not self._path.stat().st_size and not os.path.exists(f"{self._path}-wal"):
            raise StoreError(f"store {self.url}: the file {self._path} is empty")

    def prepare(self) -> None:
        """Check what SQLite itself would see too late, or not at all; raises StoreError.

        File or folder may not be written, or the database is emptied and its log not.
        """
        path, log = self._path, Path(f"{self._path}-wal")
        for needed in (path.parent, path):
            # A store that it may only read, SQLite opens, and every write fails.
            if os.path.exists(needed) and not os.access(needed, os.R_OK | os.W_OK):
                raise StoreError(f"store {self.url}: {needed} may not be read and written")
        # SQLite would delete the log. A store that is being created never looks like this: the
        # database's first page is written before the log.
        is_empty = not path.is_file() or not path.stat().st_size
        if is_empty and log.is_file() and log.stat().st_size:
            raise StoreError(
                f"store {self.url}: {path} is {'empty' if path.is_file() else 'missing'}, {log} is "
                "not; restore a copy of both"
            )

    def check(self, connection: sa.Connection) -> None:
        """Check the file's structure and indexes, some 3 s for a million decisions.

        Of what the rows hold, their own checksums tell.
        """
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        if found != "ok":
            raise StoreError(f"it is damaged ({' '.join(found.split())}); restore a copy")

    def hold(self) -> None:
        """Keep the files open, so that `check_place` notices if they are moved or replaced."""
        try:
            files = StoreFiles(self._path, verified_by=f"agent-service verify --store {self.url}")
            self._held.enter_context(closing(files))
            self.check_place = files.check
        except (sqlite3.Error, OSError) as error:
            raise StoreError(explain(error)) from error

    def join(self) -> bool:
        """Lock a file beside the store until `close`; return whether another service holds it."""
        file = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        self._held.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            fcntl.flock(file, fcntl.LOCK_SH)
        return False

    def close(self) -> None:
        """Release what `hold` and `join` took."""
        self._held.close()

    def reading(self) -> sa.Engine:
        """Return an engine whose transactions read one snapshot."""
        return self._engine(begin="BEGIN", lock_seconds=LOCK_SECONDS)

    def migrating(self) -> sa.Engine:
        """Return an engine whose transactions take the write lock as they begin."""
        return self._engine(begin="BEGIN IMMEDIATE", lock_seconds=LOCK_SECONDS)

    def writing(self) -> sa.Engine:
        """Return an engine that begins no transactions itself and waits for no locks."""
        return self._engine(begin=None, lock_seconds=0.0)

    def _engine(self, *, begin: str | None, lock_seconds: float) -> sa.Engine:
        """Return an engine whose transactions start with `begin`, since pysqlite's start late."""
        engine = sa.create_engine(
            self.url, connect_args={"timeout": lock_seconds}, json_deserializer=_json_or_text
        )

        @sa.event.listens_for(engine, "do_connect")
        def connect(*_: object) -> None:
            self.check_place()  # SQLite would create a missing file

        @sa.event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            # Write-ahead log: readers and the writer never wait for each other.
            for setting in (
                "journal_mode = WAL",
                "foreign_keys = ON",
                f"journal_size_limit = {LOG_BYTES}",
                *_SYNCING[self._durability],
            ):
                connection.execute(f"PRAGMA {setting}")

        if begin is not None:

            @sa.event.listens_for(engine, "begin")
            def start(connection: sa.Connection) -> None:
                self.check_place()
                connection.exec_driver_sql(begin)

        return engine

    def begin(self, driver: sqlite3.Connection) -> int:
        """Begin a transaction with the write lock; return a number that others' commits change."""
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if is_locked(error):
                raise Locked from error
            raise
        # Changes when another connection has committed to the file.
        version: int = driver.execute("PRAGMA data_version").fetchone()[0]
        return version

    def learning_for(self, controller_id: int) -> AbstractContextManager[bool]:
        """Yield true: if two processes learn from the same transitions, one result is dropped."""
        return nullcontext(True)

    def checkpoint(self, driver: sqlite3.Connection) -> None:
        """Checkpoint the write-ahead log into the file."""
        driver.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _json_or_text(text: str) -> Any:
    """Parse JSON; return damaged text unchanged, which the row's checksum then refuses."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return text
