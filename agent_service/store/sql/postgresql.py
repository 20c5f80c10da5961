"""A store on a PostgreSQL server, which any number of replicas of the agent service may share.

Writers take turns by one advisory lock, as they do by SQLite's write lock: so the log has one order
without gaps, and followers miss nothing. A group of calls shares a turn; waiting writers queue in
the server. Every wait has a timeout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import invalid
from agent_service.domain.store import Durability
from agent_service.store.sql.database import Database, Locked, StoreError

WRITERS, LEARNERS = 0x5EED0001, 0x5EED0002
"""Keys of advisory locks: the writer's, and, with a controller's id, its learner's."""
CONNECT_SECONDS = 3
LOCK_SECONDS = 5
"""Timeout of one attempt to get the writers' lock; the journal limits the attempts."""
WRITER_SECONDS = 10
"""Timeout of a writing session's statements. The server also ends a session that idles this long in
a transaction, so that a hung writer does not keep its turn."""
READERS = 16
"""Size of the pool of reading connections."""
READER_SECONDS = 5.0
"""Timeout of waiting for one of them."""
SILENT_SECONDS = 10
"""Both ends drop a connection after this long without a sign of the other machine. The server then
releases the session's locks, so another learner can start. The service reconnects, and until it
can, its calls end with UNAVAILABLE."""
MIGRATION_SECONDS = 60
"""How long a starting service waits for the lock, since another one may be migrating the tables."""
READING_SECONDS = 30
"""Timeout of a reading session's statements: one page takes milliseconds."""
_SERVERS_END = {
    "tcp_keepalives_idle": 4,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": SILENT_SECONDS * 1000,
}
_OUR_END = {
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENT_SECONDS * 1000,
}

_NONE: Mapping[str, object] = {}


class PostgresqlDatabase(Database):
    """A database on a PostgreSQL server, which any number of processes may share."""

    is_server = True

    def __init__(self, url: sa.URL, durability: Durability) -> None:
        """Take a URL.

        Raises:
            InvalidArgument: it names another driver, or has its password in the query.
            StoreError: the driver is not installed.
        """
        if url.get_driver_name() != "psycopg":
            raise invalid(
                "store", f"{url} names another driver; write it as postgresql+psycopg://..."
            )
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise StoreError(
                f"store {url}: needs psycopg ({error}); install the extra `postgresql`"
            ) from error
        if "password" in url.query:
            # SQLAlchemy hides only a password before the host when it formats a URL.
            raise invalid("store", "give its password by --store-password, not in the URL's query")
        super().__init__(url, durability)
        self._last_transaction = 0
        self._others_commits = 0

    def require(self) -> None:
        """Check that the database has our tables; raises StoreError."""
        engine = self.reading()
        try:
            with engine.begin() as connection:
                is_there = sa.inspect(connection).has_table("alembic_version")
        except sa.exc.OperationalError as error:
            raise StoreError(f"store {self.url}: {' '.join(str(error.orig).split())}") from error
        finally:
            engine.dispose()
        if not is_there:
            raise StoreError(f"store {self.url}: the database has no tables of ours")

    def _engine(
        self, *, answer_seconds: float, settings: Mapping[str, object] = _NONE, **options: Any
    ) -> sa.Engine:
        """Return an engine whose sessions have `settings` and this timeout for answers."""
        from agent_service.store.sql.answer_timeout import TimeoutConnection  # needs psycopg

        engine = sa.create_engine(self.url, connect_args=self._options(**settings), **options)

        @sa.event.listens_for(engine, "do_connect")
        def take_ours(
            dialect: object, record: object, arguments: Any, names: dict[str, Any]
        ) -> object:
            connection = TimeoutConnection.connect(*arguments, **names)
            connection.answer_seconds = answer_seconds
            return connection

        return engine

    def _options(self, **settings: object) -> dict[str, Any]:
        given = self.url.query.get("options", "")
        words = [f"-c {name}={value}" for name, value in {**_SERVERS_END, **settings}.items()]
        options = " ".join([*words, *([given] if isinstance(given, str) else given)])
        # Else a database in SQL_ASCII, which is no encoding, would return bytes for text.
        ours = {"connect_timeout": CONNECT_SECONDS, "client_encoding": "UTF8"}
        return {**ours, "options": options, **_OUR_END}

    def reading(self) -> sa.Engine:
        """Return an engine with repeatable reads and a pool of `READERS` sessions."""
        return self._engine(
            answer_seconds=READING_SECONDS,
            settings={"statement_timeout": READING_SECONDS * 1000},
            isolation_level="REPEATABLE READ",
            pool_size=READERS,
            max_overflow=0,
            pool_timeout=READER_SECONDS,
            pool_pre_ping=True,  # so a connection that broke while idle fails no caller
        )

    def migrating(self) -> sa.Engine:
        """Return an engine whose transactions begin by taking the writers' lock."""
        engine = sa.create_engine(
            self.url,
            connect_args=self._options(lock_timeout=MIGRATION_SECONDS * 1000),
            poolclass=sa.pool.NullPool,
        )

        @sa.event.listens_for(engine, "begin")
        def start(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")

        return engine

    def writing(self) -> sa.Engine:
        """Return an engine of sessions that `begin` transactions themselves."""
        return self._engine(
            answer_seconds=WRITER_SECONDS,
            settings={
                "synchronous_commit": "on" if self.commit_syncs else "off",
                "lock_timeout": LOCK_SECONDS * 1000,
                "statement_timeout": WRITER_SECONDS * 1000,
                "idle_in_transaction_session_timeout": WRITER_SECONDS * 1000,
            },
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.NullPool,
        )

    def begin(self, driver: Any) -> int:
        """Begin a transaction under the writers' lock; return the count of others' commits."""
        # One round trip. READ COMMITTED, whatever the server's default is, so that statements see
        # what was committed before the lock was taken; the transaction's id is assigned after it.
        try:
            cursor = driver.execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED; "
                f"SELECT pg_advisory_xact_lock({WRITERS}); SELECT pg_current_xact_id()::text",
                prepare=False,
            )
        except Exception as error:
            if type(error).__name__ != "LockNotAvailable":
                raise
            driver.execute("ROLLBACK")
            raise Locked from error
        cursor.set_result(-1)
        (transaction,) = cursor.fetchone()
        # Only writing transactions have ids: consecutive ids mean that nobody else has written.
        if int(transaction) != self._last_transaction + 1:
            self._others_commits += 1
        self._last_transaction = int(transaction)
        return self._others_commits

    @contextmanager
    def learning_for(self, controller_id: int) -> Iterator[bool]:
        """Try to take a lock in a session of its own, which releases it; yield whether it did."""
        with self._learning.connect() as connection:
            lock = f"pg_try_advisory_lock({LEARNERS}, {controller_id})"
            yield bool(connection.exec_driver_sql(f"SELECT {lock}").scalar_one())

    @cached_property
    def _learning(self) -> sa.Engine:
        """Engine of the sessions for locks.

        Cached, since a waiting learner connects many times a second, and SQLAlchemy queries the
        server's settings for each new engine.
        """
        return self.writing()
