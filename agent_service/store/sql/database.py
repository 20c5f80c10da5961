"""Differences between databases: opening, locking, durability."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import AgentError
from agent_service.domain.store import Durability


class StoreError(AgentError):
    """The store cannot be opened; the message says why."""


class Locked(Exception):
    """Another process is writing; retry in a moment."""


class Database:
    """One database, at one URL. What it need not do by itself, such as checks, is a no-op here."""

    is_server: bool
    """Whether it is a database server, which replicas share over the network."""

    def __init__(self, url: sa.URL, durability: Durability) -> None:
        """Take a URL of this kind of database."""
        self.url = url
        self.commit_syncs = durability is Durability.POWER
        """Whether a commit waits for the disk; if not, `checkpoint` does."""
        self.check_place: Callable[[], None] = lambda: None
        """Check that files that `hold` keeps open are still in place; raises Unavailable."""

    @property
    def folder(self) -> Path | None:
        """The folder of its files, as an absolute path; None on a database server."""
        return None

    def require(self) -> None:
        """Check that a store exists; raises StoreError."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Check the files before they are opened; raises StoreError."""

    def check(self, connection: sa.Connection) -> None:
        """Check the integrity of tables and indexes; raises StoreError."""

    def hold(self) -> None:
        """Keep its migrated files open, so that `check_place` notices if they are replaced."""

    def join(self) -> bool:
        """Register as its service until `close`; return whether others unexpectedly did."""
        return False

    def close(self) -> None:
        """Release what `hold` and `join` took."""

    def reading(self) -> sa.Engine:
        """Return an engine whose transactions read one snapshot."""
        raise NotImplementedError

    def migrating(self) -> sa.Engine:
        """Return an engine whose transactions exclude other writers when they begin."""
        raise NotImplementedError

    def writing(self) -> sa.Engine:
        """Return an engine that begins no transactions itself and waits for no locks."""
        raise NotImplementedError

    def begin(self, driver: Any) -> int:
        """Begin a transaction that excludes other writers; return a count of others' commits.

        Raises:
            Locked: another process is writing.
        """
        raise NotImplementedError

    def learning_for(self, controller_id: int) -> AbstractContextManager[bool]:
        """Yield whether no other process learns for a controller, and keep others out meanwhile."""
        raise NotImplementedError

    def checkpoint(self, driver: Any) -> None:
        """Checkpoint the write-ahead log, unless the database does so itself."""
