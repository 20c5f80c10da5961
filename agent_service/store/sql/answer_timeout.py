"""psycopg's connection with a timeout for the server's answers. Imports psycopg.

The server's own limits end long statements, and keepalives detect a machine that is gone. Neither
detects a hung session, whose machine still answers keepalives.
"""

from __future__ import annotations

from typing import Any

import psycopg


class TimeoutConnection(psycopg.Connection[Any]):
    """Raises OperationalError and closes if an answer takes too long."""

    answer_seconds = 30.0
    """The timeout; set after connecting."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server as psycopg does, with a timeout for each step of a statement."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            # A late answer would be taken for the next statement's.
            self.pgconn.finish()
            text = f"the server did not answer in {self.answer_seconds:g} s"
            raise psycopg.OperationalError(text) from error
