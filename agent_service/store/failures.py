"""What the database says when it fails, in words for who runs the service."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable

_RESTORE = "stop the service and restore a copy"
_REMEDIES = {
    0: _RESTORE,  # a text that is none
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make its file and folder writable",
    sqlite3.SQLITE_PERM: "make its file and folder writable",
    sqlite3.SQLITE_CANTOPEN: "make its file and folder readable and writable",
    sqlite3.SQLITE_BUSY: "another process holds it: end that one, or wait",
    sqlite3.SQLITE_LOCKED: "another process holds it: end that one, or wait",
    sqlite3.SQLITE_IOERR: "see to its disk, its quota and its file size limit",
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
}
_PRIMARY = 0xFF
"""The part of SQLite's codes that names the kind; the rest is detail."""


def is_of_storage(error: Exception) -> bool:
    """Whether the database itself fails (busy, full, damaged), and not what was asked of it."""
    # The last is how sqlite3 fails to tell of a damaged schema, which is no text.
    return (
        isinstance(error, sa.exc.OperationalError | UnicodeDecodeError)
        or type(error) is sa.exc.DatabaseError
    )


def unavailable(error: Exception) -> Unavailable:
    """Return the error for a call that the database could not serve: what failed, what to do."""
    return Unavailable(f"the store failed: {explained(error)}; then retry")


def explained(error: Exception) -> str:
    """Return what failed and what to do about it, in one line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    return f"{cause}; {_REMEDIES.get(code & _PRIMARY, 'see to its disk')}"
