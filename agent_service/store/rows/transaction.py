"""An open transaction: runs statements, and counts what changes, for whoever knows the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from agent_service.store.rows import rows
from agent_service.store.rows.cache import RunCache
from agent_service.store.rows.sending import sender_to
from agent_service.store.sql import queries


class Transaction:
    """A transaction on one connection, valid while it is open."""

    def __init__(self, connection: sa.Connection, cache: RunCache) -> None:
        """Work on the open transaction of `connection`, with the cache of earlier ones."""
        self._connection = connection
        self.sender = sender_to(queries.driver_of(connection))
        """Runs the statements that every report needs."""
        self._cache = cache
        self.calls: list[Callable[[], None]] = []
        """What to call when this is durable, of the caller that is served now."""
        self.looked_up: list[str] = []
        """The runs that this caller named."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Note what to call once this is durable."""
        self.calls.append(call)

    def forget(self) -> None:
        """Have all read again that is cached and concerns this call."""
        self._cache.drop(self.looked_up)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is done inside, and that alone, where it raises."""
        try:
            with self._connection.begin_nested():
                yield
                self.sender.finish()
        except BaseException:
            self.sender.drop()
            self._cache.clear()
            raise

    def write(self, statement: sa.Insert | sa.Update | sa.Delete) -> sa.CursorResult[Any]:
        """Run a statement that changes something."""
        self.sender.sent += 1
        return self._execute(statement)

    def _execute(
        self, statement: sa.Executable, names: Mapping[str, Any] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement after all that were sent before."""
        self.sender.finish()
        return self._connection.execute(statement, names)

    def _row(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> rows.Row | None:
        found = self._rows(query, names)
        return found[0] if found else None

    def _rows(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> list[rows.Row]:
        """Return what a query finds as plain dictionaries, which are read many times faster."""
        return list(self._each_row(query, names))

    def _each_row(
        self, query: sa.Executable, names: Mapping[str, Any] | None = None
    ) -> Iterator[rows.Row]:
        """Yield what a query finds; SQLite reads each row as it is asked for."""
        result = self._execute(query, names)
        columns = tuple(result.keys())
        try:
            for row in result:
                yield dict(zip(columns, row, strict=True))
        finally:
            result.close()
