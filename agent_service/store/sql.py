"""The store on a SQL database: SQLite by default."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.domain.ports import Durability, Session
from agent_service.store.journal import LOCK_SECONDS, DirectJournal, Journal
from agent_service.store.known import Known
from agent_service.store.migration import StoreError, bring_up_to_date
from agent_service.store.session import SqlSession
from agent_service.store.writer import Writer

T = TypeVar("T")


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
            StoreError: the URL is wrong, the file is no store, or one of a newer release.
        """
        self._url = _checked_url(url)
        _bring_up_to_date(self._url)
        self._reading = _engine(self._url, begin="BEGIN")
        # The journal waits for other writers in its own way.
        self._writing = _engine(
            self._url, begin="BEGIN IMMEDIATE", lock_seconds=0.0, durability=durability
        )
        self._journal = journal(
            Writer(
                self._writing,
                commit_syncs=durability is Durability.POWER,
                observe_commit=observe_commit,
            )
        )

    def write(self, work: Callable[[Session], T]) -> Future[T]:
        """See the port."""
        return self._journal.submit(work)

    def read(self, work: Callable[[Session], T]) -> T:
        """See the port."""
        try:
            with self._reading.begin() as connection:
                session = SqlSession(connection, Known())
                result = work(session)
        except sa.exc.OperationalError as error:
            raise Unavailable(f"the store does not answer ({error.orig}); retry") from error
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
    engine = _engine(url, begin="BEGIN IMMEDIATE")
    try:
        bring_up_to_date(engine)
    except (sa.exc.DatabaseError, StoreError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"store {url.render_as_string()}: {cause}") from error
    finally:
        engine.dispose()


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
    begin: str,
    lock_seconds: float = LOCK_SECONDS,
    durability: Durability = Durability.POWER,
) -> sa.Engine:
    """Return an engine whose transactions start with `begin`, since pysqlite's own start late."""
    engine = sa.create_engine(url, connect_args={"timeout": lock_seconds})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        # Write-ahead: readers never wait for the writer, nor it for them.
        for setting in ("journal_mode = WAL", "foreign_keys = ON", *_SYNCING[durability]):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
