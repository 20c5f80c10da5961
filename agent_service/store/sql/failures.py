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
_DAMAGED = (sa.exc.DatabaseError, sqlite3.DatabaseError)
"""Of exactly these types; their subclasses tell of what was asked."""
_PRIMARY = 0xFF
"""The part of SQLite's codes that names the kind; the rest is detail."""


def is_of_storage(error: Exception) -> bool:
    """Whether the database itself fails (busy, full, damaged), and not what was asked of it."""
    # The last of these is how sqlite3 fails to tell of a damaged schema, which is no text.
    of_storage = sa.exc.OperationalError | sqlite3.OperationalError | UnicodeDecodeError
    return isinstance(error, of_storage) or type(error) in _DAMAGED or _is_of_server(error)


def _is_of_server(error: Exception) -> bool:
    """Whether a database server is away, refuses to write, or has given a transaction up."""
    if isinstance(error, sa.exc.TimeoutError):
        return True  # all connections that read are in use
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    # By name, since psycopg is there only where it is needed.
    names = {c.__name__ for c in type(cause).__mro__ if c.__module__.startswith("psycopg")}
    return bool(names & {"OperationalError", "InterfaceError", "InternalError"})


def is_locked(error: sqlite3.OperationalError) -> bool:
    """Whether another process holds the database, which may end at any moment."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def unavailable(error: Exception) -> Unavailable:
    """Return the error for a call that the database could not serve: what failed, what to do."""
    return Unavailable(f"the store failed: {explained(error)}; then retry")


def explained(error: Exception) -> str:
    """Return what failed and what to do about it, in one line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    text = " ".join(str(cause).split())
    if _is_of_server(error):
        return f"{text}; see to the database server"
    code = getattr(cause, "sqlite_errorcode", 0)
    return f"{text}; {_REMEDIES.get(code & _PRIMARY, 'see to its disk')}"
