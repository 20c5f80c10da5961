"""An open transaction: runs statements, and counts what changes, for whoever knows the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from agent_service.store import queries, rows
from agent_service.store.known import Known


class Transaction:
    """A transaction on one connection, valid while it is open."""

    def __init__(self, connection: sa.Connection, known: Known) -> None:
        """Work on an open transaction of `connection`, with what is known from earlier ones."""
        self._connection = connection
        self._driver = queries.driver_of(connection)
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
        except BaseException:
            self._known.forget()
            raise

    def _run(self, statement: queries.Statement, values: Sequence[Any]) -> Any:
        """Run a statement that is run often, and return the driver's cursor."""
        self.changes += 1
        return statement.run(self._driver, values)

    def write(self, statement: sa.Insert | sa.Update | sa.Delete) -> sa.CursorResult[Any]:
        """Run a statement that changes something."""
        self.changes += 1
        return self._connection.execute(statement)

    def _row(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> rows.Row | None:
        found = self._rows(query, names)
        return found[0] if found else None

    def _rows(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> list[rows.Row]:
        """Return what a query finds as plain dictionaries, which are read many times faster."""
        result = self._connection.execute(query, names)
        columns = tuple(result.keys())
        return [dict(zip(columns, row, strict=True)) for row in result]
