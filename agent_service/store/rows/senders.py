"""Senders of the writes that every report makes: one by one, or a group's in one round trip.

SQLite runs a statement in this process. To a database server each statement is a round trip, and
waiting for one answer before sending the next takes longer than the server's work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent_service.store.rows.cache import StaleWrite
from agent_service.store.sql.failures import is_storage_failure
from agent_service.store.sql.queries import Statement


class Sender:
    """Runs each statement at once, in order: for SQLite."""

    def __init__(self, driver: Any) -> None:
        """Send through a driver's connection."""
        self._driver = driver
        self.sent = 0
        """Number of statements sent so far."""

    def send(self, statement: Statement, values: Sequence[Any], *, changes: str = "") -> None:
        """Send a statement, now or with the next ones.

        Args:
            statement: the statement.
            values: its parameters, in order.
            changes: id of the run that it must change; empty if it may change nothing.

        Raises:
            StaleWrite: it did not change the run.
        """
        self.sent += 1
        cursor = self._driver.execute(statement.sqlite, values)
        if changes and cursor.rowcount != 1:
            raise StaleWrite(changes)

    def finish(self) -> None:
        """Run everything that was sent; raises as `send` does."""

    def drop(self) -> None:
        """Discard what was sent and not yet run, since the transaction is rolled back."""


@dataclass(frozen=True, slots=True)
class _Sent:
    statement: Statement
    values: Sequence[Any]
    changes: str


class PipelinedSender(Sender):
    """Queues statements for PostgreSQL, and runs them in a pipeline when results are needed."""

    def __init__(self, driver: Any) -> None:
        """Send through psycopg's connection."""
        super().__init__(driver)
        self._waiting: list[_Sent] = []

    def send(self, statement: Statement, values: Sequence[Any], *, changes: str = "") -> None:
        """Queue a statement for `finish`."""
        self.sent += 1
        self._waiting.append(_Sent(statement, values, changes))

    def finish(self) -> None:
        """Run what is queued in one round trip; raises StaleWrite for any of it."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            with self._driver.pipeline():
                cursors = [self._driver.execute(s.statement.psycopg, s.values) for s in waiting]
        except Exception as error:
            if is_storage_failure(error):
                raise
            # Which job it was is unknown here; running them one by one will find it.
            raise StaleWrite from error
        for sent, cursor in zip(waiting, cursors, strict=True):
            if sent.changes and cursor.rowcount != 1:
                raise StaleWrite(sent.changes)

    def drop(self) -> None:
        """Discard what is queued."""
        self._waiting = []


def make_sender(driver: Any) -> Sender:
    """Return the sender for a driver's connection."""
    return Sender(driver) if isinstance(driver, sqlite3.Connection) else PipelinedSender(driver)
