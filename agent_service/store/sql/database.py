"""What the store needs of a database that SQL alone does not say: one implementation for each."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from agent_service.domain.errors import AgentError


class StoreError(AgentError):
    """The store cannot be opened: see the message."""


class Locked(Exception):
    """Another process writes; try again in a moment."""


class Database(Protocol):
    """One database, at one URL."""

    url: sa.URL

    is_server: bool
    """Whether it is a server: others write to it as often, and its answers are waited for."""

    @property
    def folder(self) -> Path | None:
        """Where its files lie, as an absolute path; None where they are a server's."""
        ...

    def require(self) -> None:
        """Check that a store is there; raises StoreError."""
        ...

    def prepare(self) -> None:
        """Check what can be checked before it is opened; raises StoreError."""
        ...

    def check(self, connection: sa.Connection) -> None:
        """Check that tables and indexes are whole; raises StoreError."""
        ...

    def hold(self) -> None:
        """Hold on to its files, which are up to date, so that `check_place` sees what is done."""
        ...

    def check_place(self) -> None:
        """Check that the files held are still in their place; raises Unavailable."""
        ...

    def join(self) -> bool:
        """Take part in serving it until `close`; return whether others do, where that is rare."""
        ...

    def close(self) -> None:
        """Let go of what `hold` and `join` took."""
        ...

    def reading(self) -> sa.Engine:
        """Return an engine whose transactions see one state of the whole."""
        ...

    def migrating(self) -> sa.Engine:
        """Return an engine whose transactions keep all other writers out from their beginning."""
        ...

    def writing(self) -> sa.Engine:
        """Return an engine that begins no transaction of its own, and waits for nobody."""
        ...

    def begin(self, driver: Any) -> int:
        """Begin a transaction that no other writer is in; return the count of others' commits.

        Raises:
            Locked: another one is.
        """
        ...

    def learning_for(self, controller_id: int) -> AbstractContextManager[bool]:
        """Give, until it is left, whether no other process learns for a controller."""
        ...

    @property
    def commit_syncs(self) -> bool:
        """Whether a commit waits for a disk; if not, `checkpoint` does, where there is one."""
        ...

    def checkpoint(self, driver: Any) -> None:
        """Bring what was committed from its log into place, where it does not do so itself."""
        ...
