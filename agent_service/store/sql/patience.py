"""psycopg's connection, whose server is waited for only so long. Imports psycopg.

The server's own limits end a statement that takes long, and keepalives find a machine that is gone.
A session whose process hangs is found by neither: its machine still answers for it.
"""

from __future__ import annotations

from typing import Any

import psycopg


class PatientConnection(psycopg.Connection[Any]):
    """Raises OperationalError, and is closed, where an answer takes longer than it may."""

    answer_seconds = 30.0
    """Set by who connects."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server as psycopg does, in each step of a statement for so long at most."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            # What would still come is the answer to another question.
            self.pgconn.finish()
            text = f"the server did not answer in {self.answer_seconds:g} s"
            raise psycopg.OperationalError(text) from error
