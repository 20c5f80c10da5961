"""The store on a SQL database: SQLite by default."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from agent_service.domain.ports import Durability, Session
from agent_service.store.failures import explained, is_of_storage, unavailable
from agent_service.store.journal import LOCK_SECONDS, DirectJournal, Journal
from agent_service.store.known import Known
from agent_service.store.migration import StoreError, bring_up_to_date
from agent_service.store.session import SqlSession
from agent_service.store.writer import Writer

T = TypeVar("T")

LOG_BYTES = 8 * 2**20
"""What is left of the write-ahead log when it starts anew.

It starts anew at some 4 MiB, unless somebody reads in one transaction for long, such as a dashboard
on the file: until that one ends, the log grows with every commit.
"""


class SqlStore:
    """The store port on SQLAlchemy. Thread-safe; several processes may open the same database.

    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: Durability = Durability.POWER,
        observe_commit: Callable[[float, int], None] = lambda _seconds, _size: None,
        journal: Callable[[Writer], Journal] = DirectJournal,
    ) -> None:
        """Open the database, making its tables where there are none, or bringing them up to date.

        Args:
            url: SQLAlchemy's, e.g. `sqlite:///agent.db`.
            durability: what a write survives once its future is done.
            observe_commit: told each commit's seconds and the number of calls in it.
            journal: the way of calls to the writer; `LoopJournal` in a running event loop.

        Raises:
            StoreError: the URL is wrong, the file is no store, damaged, or of a newer release.
        """
        self._url = _checked_url(url)
        _check_files(self._url)
        self._reading = _engine(self._url, begin="BEGIN", lock_seconds=LOCK_SECONDS)
        try:
            _check_structure(self._reading)
            _bring_up_to_date(self._url)
        except (sa.exc.DatabaseError, UnicodeDecodeError) as error:
            self._reading.dispose()
            raise StoreError(f"store {url}: {explained(error)}") from error
        except StoreError as error:
            self._reading.dispose()
            raise StoreError(f"store {url}: {error}") from error
        # The writer begins its transactions itself, and the journal waits for others in its way.
        self._writing = _engine(self._url, begin=None, lock_seconds=0.0, durability=durability)
        self._journal = journal(
            Writer(
                self._writing,
                commit_syncs=durability is Durability.POWER,
                observe_commit=observe_commit,
            )
        )

    @property
    def folder(self) -> Path:
        """Where the database lies, as an absolute path."""
        assert self._url.database is not None
        return Path(self._url.database).resolve().parent

    def write(self, work: Callable[[Session], T]) -> Future[T]:
        """See the port."""
        return self._journal.submit(work)

    def read(self, work: Callable[[Session], T]) -> T:
        """See the port."""
        try:
            with self._reading.begin() as connection:
                session = SqlSession(connection, Known())
                result = work(session)
        except Exception as error:
            if is_of_storage(error):
                raise unavailable(error) from error
            raise
        for call in session.calls:
            call()
        return result

    def close(self) -> None:
        """See the port."""
        self._journal.close()
        self._reading.dispose()
        self._writing.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _bring_up_to_date(url: sa.URL) -> None:
    engine = _engine(url, begin="BEGIN IMMEDIATE", lock_seconds=LOCK_SECONDS)
    try:
        bring_up_to_date(engine)
    finally:
        engine.dispose()


def require_store(url: str) -> None:
    """Check that a store is there, for who only looks at one and must not make it.

    Raises:
        StoreError: the URL is wrong, or there is no such file.
    """
    path = _checked_url(url).database
    assert path is not None
    if not Path(path).is_file():
        raise StoreError(f"store {url}: there is no file {path}")


def _check_files(url: sa.URL) -> None:
    """Check what SQLite itself would see too late, or not at all.

    Raises:
        StoreError: file or folder may not be written, or the database is emptied and its log not.
    """
    assert url.database is not None
    path, log = Path(url.database), Path(f"{url.database}-wal")
    for needed in (path.parent, path):
        # A store that it may only read, SQLite opens, and every write fails.
        if os.path.exists(needed) and not os.access(needed, os.R_OK | os.W_OK):
            raise StoreError(f"store {url}: {needed} may not be read and written")
    # SQLite would delete the log. A store that is being made never looks so: the first page of the
    # database is written before the log.
    if log.is_file() and log.stat().st_size and path.is_file() and not path.stat().st_size:
        raise StoreError(f"store {url}: {path} is empty, {log} is not; restore a copy of both")


def _check_structure(engine: sa.Engine) -> None:
    """Raise StoreError where tables and indexes are not whole; some 3 s for a million decisions.

    Of what the rows hold, their own checksums tell.
    """
    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
    if found != "ok":
        raise StoreError(f"it is damaged ({' '.join(found.split())}); restore a copy")


def _checked_url(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreError(f"store {url!r} is no URL; one is sqlite:///agent.db") from error
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(f"store {url!r}: only sqlite:///PATH is there yet")
    if parsed.database in (None, "", ":memory:"):
        raise StoreError("store: give a file, e.g. sqlite:///agent.db; the learner reads it too")
    return parsed


_SYNCING = {
    Durability.POWER: ("synchronous = FULL",),
    # In WAL mode NORMAL leaves syncing to the checkpoints: the file stays whole whatever happens.
    # SQLite makes one, in a commit, only where the journal has not had one made long before.
    Durability.PROCESS: ("synchronous = NORMAL", "wal_autocheckpoint = 4000"),
}


def _engine(
    url: sa.URL,
    *,
    begin: str | None,
    lock_seconds: float,
    durability: Durability = Durability.POWER,
) -> sa.Engine:
    """Return an engine whose transactions start with `begin`, since pysqlite's own start late."""
    engine = sa.create_engine(
        url, connect_args={"timeout": lock_seconds}, json_deserializer=_json_or_text
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        # Write-ahead: readers never wait for the writer, nor it for them.
        for setting in (
            "journal_mode = WAL",
            "foreign_keys = ON",
            f"journal_size_limit = {LOG_BYTES}",
            *_SYNCING[durability],
        ):
            connection.execute(f"PRAGMA {setting}")

    if begin is not None:

        @sa.event.listens_for(engine, "begin")
        def start(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

    return engine


def _json_or_text(text: str) -> Any:
    """Return what a JSON text says; a damaged text as it is, which its row's checksum refuses."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return text
