"""An open transaction: runs the statements of the session's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from agent_service.store.rows import rows
from agent_service.store.rows.cache import RunCache
from agent_service.store.rows.senders import make_sender
from agent_service.store.sql import queries


class Transaction:
    """A transaction on one connection, valid while it is open."""

    def __init__(self, connection: sa.Connection, cache: RunCache) -> None:
        """Use the open transaction of `connection`, with the cache kept between transactions."""
        self._connection = connection
        self.sender = make_sender(queries.driver_of(connection))
        """Runs the writes that every report needs."""
        self._cache = cache
        self.calls: list[Callable[[], None]] = []
        """The current job's callbacks for when this is durable."""
        self.looked_up: list[str] = []
        """The runs that the current job looked up."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is durable, and never if it is not.

        A reading transaction, which sees only durable data, calls it when it ends.
        """
        self.calls.append(call)

    def forget(self) -> None:
        """Drop cached data that concerns the current job."""
        self._cache.drop(self.looked_up)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is done inside, and only that, if it raises."""
        try:
            with self._connection.begin_nested():
                yield
                self.sender.finish()
        except BaseException:
            self.sender.drop()
            self._cache.clear()
            raise

    def write(self, statement: sa.Insert | sa.Update | sa.Delete) -> sa.CursorResult[Any]:
        """Run a statement that writes."""
        self.sender.sent += 1
        return self._execute(statement)

    def _execute(
        self, statement: sa.Executable, names: Mapping[str, Any] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement after those that are queued."""
        self.sender.finish()
        return self._connection.execute(statement, names)

    def _row(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> rows.Row | None:
        found = self._rows(query, names)
        return found[0] if found else None

    def _rows(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> list[rows.Row]:
        """Return a query's rows as dictionaries, which are many times faster to read."""
        return list(self._each_row(query, names))

    def _each_row(
        self, query: sa.Executable, names: Mapping[str, Any] | None = None
    ) -> Iterator[rows.Row]:
        """Yield a query's rows as dictionaries; SQLite reads each row when it is yielded."""
        result = self._execute(query, names)
        columns = tuple(result.keys())
        try:
            for row in result:
                yield dict(zip(columns, row, strict=True))
        finally:
            result.close()
