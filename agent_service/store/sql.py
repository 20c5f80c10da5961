"""The store on a SQL database: SQLite by default."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from agent_service.domain.errors import AgentError, Unavailable
from agent_service.domain.ports import Session
from agent_service.store.journal import Journal
from agent_service.store.schema import FORMAT, metadata, store_format
from agent_service.store.session import SqlSession

T = TypeVar("T")

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process's write, such as the learner's, before a call fails."""


class StoreError(AgentError):
    """The store cannot be opened: see the message."""


class SqlStore:
    """The store port on SQLAlchemy. Thread-safe; several processes may open the same database.

    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        url: str,
        *,
        observe_commit: Callable[[float, int], None] = lambda _seconds, _size: None,
    ) -> None:
        """Open the database, making its tables where there are none.

        Args:
            url: SQLAlchemy's, e.g. `sqlite:///agent.db`.
            observe_commit: told each commit's seconds and the number of calls in it.

        Raises:
            StoreError: the URL is wrong, the file is no store, or one of another version.
        """
        self._url = _checked_url(url)
        self._reading = _engine(self._url, begin="BEGIN")
        self._writing = _engine(self._url, begin="BEGIN IMMEDIATE")
        try:
            _prepare(self._writing)
        except (sa.exc.DatabaseError, StoreError) as error:
            self._dispose()
            raise StoreError(f"store {url}: {getattr(error, 'orig', None) or error}") from error
        self._journal = Journal(self._writing, observe_commit=observe_commit)

    def write(self, work: Callable[[Session], T]) -> Future[T]:
        """See the port."""

        def run(connection: sa.Connection) -> tuple[T, list[Callable[[], None]]]:
            session = SqlSession(connection)
            return work(session), session.to_call

        return self._journal.submit(run)

    def read(self, work: Callable[[Session], T]) -> T:
        """See the port."""
        try:
            with self._reading.begin() as connection:
                return work(SqlSession(connection))
        except sa.exc.OperationalError as error:
            raise Unavailable(f"the store does not answer ({error.orig}); retry") from error

    def close(self) -> None:
        """See the port."""
        self._journal.close()
        self._dispose()

    def _dispose(self) -> None:
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


def _engine(url: sa.URL, *, begin: str) -> sa.Engine:
    """Return an engine whose transactions start with `begin`, since pysqlite's own start late."""
    engine = sa.create_engine(url, connect_args={"timeout": LOCK_TIMEOUT})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        # Readers never wait for the writer, nor it for them; each commit is synced to disk.
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _prepare(engine: sa.Engine) -> None:
    """Make the tables in an empty database; refuse a store of another version."""
    with engine.begin() as connection:
        names = set(sa.inspect(connection).get_table_names())
        if not names:
            metadata.create_all(connection)
            connection.execute(sa.insert(store_format).values(version=FORMAT))
            return
        if store_format.name not in names:
            raise StoreError("the database holds other tables; give a new file")
        version = connection.execute(sa.select(store_format.c.version)).scalar_one()
        if version != FORMAT:
            raise StoreError(f"it has format {version}, this release reads {FORMAT}; update it")
