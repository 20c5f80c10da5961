"""How writes that every report makes reach the database: at once, or those of a group together.

To a file that this process has open, a statement takes no way. To a server each has one, and who
waits for its answer before the next one is sent waits longer than the server works.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_service.store.rows.cache import StaleWrite
from agent_service.store.sql.failures import is_of_storage
from agent_service.store.sql.queries import Statement


class Sender(Protocol):
    """Sends statements to one database, in order."""

    sent: int
    """Statements so far."""

    def send(self, statement: Statement, values: Sequence[Any], *, changes: str = "") -> None:
        """Send a statement, now or with the next ones.

        Args:
            statement: what.
            values: in the order in which they stand in it.
            changes: the run that it must change, by id; empty where it may change nothing.

        Raises:
            StaleWrite: it changed nothing.
        """
        ...

    def finish(self) -> None:
        """Have all done that was sent; raises as `send` does, of any of them."""
        ...

    def drop(self) -> None:
        """Forget what was sent and is not done, since it is taken back."""
        ...


def sender_to(driver: Any) -> Sender:
    """Return what sends to the database of a driver's connection."""
    is_sqlite = isinstance(driver, sqlite3.Connection)
    return DirectSender(driver) if is_sqlite else PipelinedSender(driver)


class DirectSender:
    """Sends to SQLite, each statement at once."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        """Send by a connection."""
        self._driver = driver
        self.sent = 0

    def send(self, statement: Statement, values: Sequence[Any], *, changes: str = "") -> None:
        """Run a statement; raises StaleWrite where it changes nothing that it must change."""
        self.sent += 1
        cursor = self._driver.execute(statement.of_sqlite, values)
        if changes and cursor.rowcount != 1:
            raise StaleWrite(changes)

    def finish(self) -> None:
        """Do nothing: all is done."""

    def drop(self) -> None:
        """Do nothing: all is done."""


@dataclass(frozen=True, slots=True)
class _Sent:
    statement: Statement
    values: Sequence[Any]
    changes: str


class PipelinedSender:
    """Sends to PostgreSQL: keeps statements until their answers are needed."""

    def __init__(self, driver: Any) -> None:
        """Send by psycopg's connection."""
        self._driver = driver
        self.sent = 0
        self._waiting: list[_Sent] = []

    def send(self, statement: Statement, values: Sequence[Any], *, changes: str = "") -> None:
        """Keep a statement for `finish`."""
        self.sent += 1
        self._waiting.append(_Sent(statement, values, changes))

    def finish(self) -> None:
        """Run what is kept, in one way to the server and back; raises StaleWrite of any of them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            with self._driver.pipeline():
                cursors = [self._driver.execute(s.statement.of_psycopg, s.values) for s in waiting]
        except Exception as error:
            if is_of_storage(error):
                raise
            # Whose it was is not known here; one by one it will be.
            raise StaleWrite from error
        for sent, cursor in zip(waiting, cursors, strict=True):
            if sent.changes and cursor.rowcount != 1:
                raise StaleWrite(sent.changes)

    def drop(self) -> None:
        """Forget what is kept."""
        self._waiting = []
