"""Protocol of what differs between databases: opening, locking, durability."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from agent_service.domain.errors import AgentError


class StoreError(AgentError):
    """The store cannot be opened; the message says why."""


class Locked(Exception):
    """Another process is writing; retry in a moment."""


class Database(Protocol):
    """One database, at one URL."""

    url: sa.URL

    is_server: bool
    """Whether it is a database server, which replicas share over the network."""

    @property
    def folder(self) -> Path | None:
        """The folder of its files, as an absolute path; None on a database server."""
        ...

    def require(self) -> None:
        """Check that a store exists; raises StoreError."""
        ...

    def prepare(self) -> None:
        """Check the files before they are opened; raises StoreError."""
        ...

    def check(self, connection: sa.Connection) -> None:
        """Check the integrity of tables and indexes; raises StoreError."""
        ...

    def hold(self) -> None:
        """Keep its migrated files open, so that `check_place` notices if they are replaced."""
        ...

    def check_place(self) -> None:
        """Check that the open files are still in their place; raises Unavailable."""
        ...

    def join(self) -> bool:
        """Register as its service until `close`; return whether others unexpectedly did."""
        ...

    def close(self) -> None:
        """Release what `hold` and `join` took."""
        ...

    def reading(self) -> sa.Engine:
        """Return an engine whose transactions read one snapshot."""
        ...

    def migrating(self) -> sa.Engine:
        """Return an engine whose transactions exclude other writers when they begin."""
        ...

    def writing(self) -> sa.Engine:
        """Return an engine that begins no transactions itself and waits for no locks."""
        ...

    def begin(self, driver: Any) -> int:
        """Begin a transaction that excludes other writers; return a count of others' commits.

        Raises:
            Locked: another process is writing.
        """
        ...

    def learning_for(self, controller_id: int) -> AbstractContextManager[bool]:
        """Yield whether no other process learns for a controller, and keep others out meanwhile."""
        ...

    @property
    def commit_syncs(self) -> bool:
        """Whether a commit waits for the disk; if not, `checkpoint` does."""
        ...

    def checkpoint(self, driver: Any) -> None:
        """Checkpoint the write-ahead log, unless the database does so itself."""
        ...
