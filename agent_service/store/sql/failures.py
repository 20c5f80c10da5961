"""Database failures, explained for operators."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable

_RESTORE = "stop the service and restore a copy"
_REMEDIES = {
    0: _RESTORE,  # text that cannot be decoded
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make its file and folder writable",
    sqlite3.SQLITE_PERM: "make its file and folder writable",
    sqlite3.SQLITE_CANTOPEN: "make its file and folder readable and writable",
    sqlite3.SQLITE_BUSY: "another process locks it: end that process, or wait",
    sqlite3.SQLITE_LOCKED: "another process locks it: end that process, or wait",
    sqlite3.SQLITE_IOERR: "check its disk, its quota and its file size limit",
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
}
_DAMAGED = (sa.exc.DatabaseError, sqlite3.DatabaseError)
"""Exactly these types; their subclasses report errors of the statement."""
_PRIMARY = 0xFF
"""Mask of SQLite's primary result codes."""


def is_storage_failure(error: Exception) -> bool:
    """Whether the database failed (busy, full, damaged), and not the statement."""
    # sqlite3 raises UnicodeDecodeError when it tries to quote a damaged schema.
    of_storage = sa.exc.OperationalError | sqlite3.OperationalError | UnicodeDecodeError
    return isinstance(error, of_storage) or type(error) in _DAMAGED or _is_server_failure(error)


def _is_server_failure(error: Exception) -> bool:
    """Whether a database server is unreachable, refuses to write, or aborted a transaction."""
    if isinstance(error, sa.exc.TimeoutError):
        return True  # all reading connections are in use
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    # By name, since psycopg is an optional dependency.
    names = {c.__name__ for c in type(cause).__mro__ if c.__module__.startswith("psycopg")}
    return bool(names & {"OperationalError", "InterfaceError", "InternalError"})


def is_locked(error: sqlite3.OperationalError) -> bool:
    """Whether another process holds a lock, which is temporary."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def unavailable(error: Exception) -> Unavailable:
    """Return the error for a call that the database could not serve."""
    return Unavailable(f"the store failed: {explain(error)}; then retry")


def explain(error: Exception) -> str:
    """Return what failed and what to do about it, in one line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    text = " ".join(str(cause).split())
    if _is_server_failure(error):
        return f"{text}; check the database server"
    code = getattr(cause, "sqlite_errorcode", 0)
    return f"{text}; {_REMEDIES.get(code & _PRIMARY, 'check its disk')}"
