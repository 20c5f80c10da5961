"""An open transaction: runs statements, and counts what changes, for whoever knows the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from agent_service.store.rows import rows
from agent_service.store.rows.known import Known
from agent_service.store.rows.sending import sender_to
from agent_service.store.sql import queries


class Transaction:
    """A transaction on one connection, valid while it is open."""

    def __init__(self, connection: sa.Connection, known: Known) -> None:
        """Work on an open transaction of `connection`, with what is known from earlier ones."""
        self._connection = connection
        self._sender = sender_to(queries.driver_of(connection))
        self._known = known
        self.changes = 0
        """Writes so far."""
        self.begin_call()

    def begin_call(self) -> None:
        """Begin what one caller wants of the transaction."""
        self.calls: list[Callable[[], None]] = []
        """What `after_commit` was told by this caller."""
        self._looked_up: list[str] = []

    def after_commit(self, call: Callable[[], None]) -> None:
        """Note what to call once this is durable."""
        self.calls.append(call)

    def forget(self) -> None:
        """Have all read again that was known from earlier and concerns this call."""
        self._known.forget_some(self._looked_up)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is done inside, and that alone, where it raises."""
        try:
            with self._connection.begin_nested():
                yield
                self.finish()
        except BaseException:
            self._sender.drop()
            self._known.forget()
            raise

    def finish(self) -> None:
        """Have all done that was written so far; raises Overtaken where one thing was not."""
        self._sender.finish()

    def _send(self, statement: queries.Statement, values: Sequence[Any], **which: str) -> None:
        """Run a statement that is run often; see `Sender.send`."""
        self.changes += 1
        self._sender.send(statement, values, **which)

    def write(self, statement: sa.Insert | sa.Update | sa.Delete) -> sa.CursorResult[Any]:
        """Run a statement that changes something."""
        self.changes += 1
        return self._execute(statement)

    def _execute(
        self, statement: sa.Executable, names: Mapping[str, Any] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement after all that were sent before."""
        self._sender.finish()
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
