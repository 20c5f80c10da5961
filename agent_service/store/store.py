"""The store on a SQL database: a SQLite file by default, or a PostgreSQL server."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable, invalid
from agent_service.domain.runs import Controller
from agent_service.domain.store import Durability, Session
from agent_service.store.journal.journal import DirectJournal, Journal
from agent_service.store.journal.writer import Writer
from agent_service.store.rows.cache import RunCache
from agent_service.store.rows.session import SqlSession
from agent_service.store.sql.database import Database, StoreError
from agent_service.store.sql.failures import explained, is_of_storage, unavailable
from agent_service.store.sql.migration import bring_up_to_date
from agent_service.store.sql.postgresql import PostgresqlDatabase
from agent_service.store.sql.sqlite import SqliteDatabase

log = logging.getLogger(__name__)

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
            url: SQLAlchemy's, e.g. `sqlite:///agent.db`, `postgresql+psycopg://agent@db/agent`.
            durability: what a write survives once its future is done.
            observe_commit: told each commit's seconds and the number of calls in it.
            journal: the way of calls to the writer; `LoopJournal` in a running event loop.

        Raises:
            InvalidArgument: the URL is wrong.
            StoreError: the file is no store, damaged, or of a newer release.
        """
        self._database = _database(url, durability)
        self._database.prepare()
        shown = self._database.url  # as text without its password
        self._reading = self._database.reading()
        try:
            with self._reading.begin() as connection:
                self._database.check(connection)
            self._bring_up_to_date()
            self._database.hold()
        except (sa.exc.DatabaseError, UnicodeDecodeError) as error:
            self._reading.dispose()
            raise StoreError(f"store {shown}: {explained(error)}") from error
        except StoreError as error:
            self._reading.dispose()
            raise StoreError(f"store {shown}: {error}") from error
        # The writer begins its transactions itself, and the journal waits for others in its way.
        self._writing = self._database.writing()
        self._journal = journal(
            Writer(self._writing, self._database, observe_commit=observe_commit)
        )

    def _bring_up_to_date(self) -> None:
        engine = self._database.migrating()
        try:
            bring_up_to_date(engine)
        finally:
            engine.dispose()

    @property
    def folder(self) -> Path | None:
        """Where the database lies, as an absolute path; None where that is a server's matter."""
        return self._database.folder

    def join(self) -> None:
        """Serve it until it is closed; the log says where another service does, too."""
        if self._database.join():
            log.warning(
                "another agent service serves %s, too: each answers for all runs of it",
                self._database.url,
            )

    def is_in_place(self) -> bool:
        """Whether its files are where they were opened; if not, the log says what to do."""
        try:
            self._database.check_place()
        except Unavailable:
            return False
        return True

    def write(self, work: Callable[[Session], T], *, run_id: str | None = None) -> Future[T]:
        """Run `work` as one atomic step among others; the future is done when it is durable."""
        return self._journal.submit(work, run_id=run_id)

    def read(self, work: Callable[[Session], T]) -> T:
        """Run `work`, which only reads, on a consistent view of what is committed."""
        try:
            with self._reading.begin() as connection:
                session = SqlSession(connection, RunCache())
                result = work(session)
        except Exception as error:
            if is_of_storage(error):
                raise unavailable(error) from error
            raise
        for call in session.calls:
            call()
        return result

    @contextmanager
    def learning_for(self, controller: Controller) -> Iterator[bool]:
        """Give, until it is left, whether nobody else learns for a controller meanwhile."""
        try:
            with self._database.learning_for(controller.id) as is_alone:
                yield is_alone
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Finish what was submitted and let go of the storage."""
        self._journal.close()
        self._reading.dispose()
        self._writing.dispose()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_store(url: str) -> None:
    """Check that a store is there, for who only looks at one and must not make it.

    Raises:
        InvalidArgument: the URL is wrong.
        StoreError: there is none.
    """
    _database(url, Durability.POWER).require()


_DATABASES: dict[str, Callable[[sa.URL, Durability], Database]] = {
    "sqlite": SqliteDatabase,
    "postgresql": PostgresqlDatabase,
}


def _database(url: str, durability: Durability) -> Database:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        if re.fullmatch(r"[\w./-]+", url):
            raise invalid("store", f"{url!r} is no URL; write sqlite:///{url}") from error
        # Not shown: a password may stand anywhere in what is no URL.
        raise invalid("store", f"the URL cannot be read; give {_FORMS}") from error
    make = _DATABASES.get(parsed.get_backend_name())
    if make is None:
        raise invalid("store", f"{parsed} is of no kind that is known; give {_FORMS}")
    return make(parsed, durability)


_FORMS = "sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE"
