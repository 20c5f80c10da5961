"""The store on a SQL database: a SQLite file by default, or a PostgreSQL server."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable, invalid
from agent_service.domain.runs import Controller
from agent_service.domain.store import Durability
from agent_service.store.journal.journal import DirectJournal, Journal
from agent_service.store.journal.writer import Writer
from agent_service.store.rows.cache import RunCache
from agent_service.store.rows.session import Session
from agent_service.store.sql.database import Database, StoreError
from agent_service.store.sql.failures import explain, is_storage_failure, unavailable
from agent_service.store.sql.migration import migrate
from agent_service.store.sql.postgresql import PostgresqlDatabase
from agent_service.store.sql.sqlite import SqliteDatabase

log = logging.getLogger(__name__)

T = TypeVar("T")


class SqlStore:
    """The store, on SQLAlchemy. Thread-safe; several processes may open the same database.

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
        """Open the database, and create or migrate its tables.

        Args:
            url: SQLAlchemy URL, e.g. `sqlite:///agent.db`, `postgresql+psycopg://agent@db/agent`.
            durability: what a write survives once its future is done.
            observe_commit: called with each commit's duration in seconds and its number of calls.
            journal: passes calls to the writer; `LoopJournal` in a running event loop.

        Raises:
            InvalidArgument: the URL is invalid.
            StoreError: the file is not a store, is damaged, or was written by a newer release.
        """
        self._database = _database(url, durability)
        self._database.prepare()
        shown = self._database.url  # formats without its password
        self._reading = self._database.reading()
        try:
            with self._reading.begin() as connection:
                self._database.check(connection)
            self._migrate()
            self._database.hold()
        except (sa.exc.DatabaseError, UnicodeDecodeError) as error:
            self._reading.dispose()
            raise StoreError(f"store {shown}: {explain(error)}") from error
        except StoreError as error:
            self._reading.dispose()
            raise StoreError(f"store {shown}: {error}") from error
        # Without transactions of its own: the writer begins them, and the journal waits for locks.
        self._writing = self._database.writing()
        self._journal = journal(
            Writer(self._writing, self._database, observe_commit=observe_commit)
        )

    def _migrate(self) -> None:
        engine = self._database.migrating()
        try:
            migrate(engine)
        finally:
            engine.dispose()

    @property
    def folder(self) -> Path | None:
        """The database's folder, as an absolute path; None on a database server."""
        return self._database.folder

    def join(self) -> None:
        """Register as a service of this store until it is closed; warn if another one serves it."""
        if self._database.join():
            log.warning(
                "another agent service serves %s too: each answers for all of its runs",
                self._database.url,
            )

    def is_in_place(self) -> bool:
        """Whether its files are still those that were opened; if not, logs what to do."""
        try:
            self._database.check_place()
        except Unavailable:
            return False
        return True

    def write(self, work: Callable[[Session], T], *, run_id: str | None = None) -> Future[T]:
        """Run `work` as one atomic step; the future is done when it is durable.

        `run_id` names the run that it will look up, so that those of several steps are read
        together. If `work` raises, nothing is stored, and the future raises its error; Unavailable
        if the storage failed.
        """
        return self._journal.submit(work, run_id=run_id)

    def read(self, work: Callable[[Session], T]) -> T:
        """Run `work`, which only reads, on a consistent view of what is committed."""
        try:
            with self._reading.begin() as connection:
                session = Session(connection, RunCache())
                result = work(session)
        except Exception as error:
            if is_storage_failure(error):
                raise unavailable(error) from error
            raise
        for call in session.calls:
            call()
        return result

    @contextmanager
    def learning_for(self, controller: Controller) -> Iterator[bool]:
        """Yield whether no other process learns for a controller, and keep others out meanwhile.

        Released when the process ends, in any way. It only saves work: of two concurrent updates,
        one result would be dropped.
        """
        try:
            with self._database.learning_for(controller.id) as is_alone:
                yield is_alone
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Finish submitted work and close the database."""
        self._journal.close()
        self._reading.dispose()
        self._writing.dispose()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_store(url: str) -> None:
    """Check that a store exists, for commands that must not create one.

    Raises:
        InvalidArgument: the URL is invalid.
        StoreError: it does not exist.
    """
    _database(url, Durability.POWER).require()


_DATABASES: dict[str, type[Database]] = {
    "sqlite": SqliteDatabase,
    "postgresql": PostgresqlDatabase,
}


def _database(url: str, durability: Durability) -> Database:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        if re.fullmatch(r"[\w./-]+", url):
            raise invalid("store", f"{url!r} is not a URL; write sqlite:///{url}") from error
        # Not shown: it may contain a password anywhere.
        raise invalid("store", f"the URL cannot be parsed; give {_FORMS}") from error
    make = _DATABASES.get(parsed.get_backend_name())
    if make is None:
        raise invalid("store", f"{parsed} is not supported; give {_FORMS}")
    return make(parsed, durability)


_FORMS = "sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE"
