"""Port of the store for archiving and deleting old runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_service.domain.runs import Run, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRun:
    """A finished or abandoned run whose last accepted call was long ago."""

    key: int
    """The store's key."""
    id: str
    controller: str
    updated_at: float
    """Seconds since 1970 of its last accepted call."""
    is_finished: bool
    """Whether it has an outcome; else its lease expired, and its next report may revive it."""
    decisions: int
    """Number of its rows in the log."""
    checksums: int
    """Sum of these rows' checksums, which any change alters."""
    size: int
    """Bytes of these rows' values."""
    is_awaited: bool
    """Whether a controller that is not deleted has yet to learn from it."""
    is_newest: bool
    """Whether it has the log's last row, from which the next position follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """The result of a small batch of deletions."""

    rows: int
    last_key: int
    """Key of the last run of the batch; the next batch continues there."""


class Retention(Protocol):
    """The session's methods for runs that leave the store.

    A run leaves in two steps. First it is marked as archived, which hides it from all reads, in one
    atomic step: from then on the archive file has it. Then its decisions are deleted in small
    batches. Its own row stays, so that its id is never reused.
    """

    def old_runs(self, *, before: float, after: int, limit: int) -> Sequence[OldRun]:
        """Return ended runs, by key above `after`, whose last accepted call was before `before`.

        Without archived ones.
        """
        ...

    def run_transitions(
        self, key: int, *, after: int, limit: int
    ) -> Sequence[tuple[Run, Transition]]:
        """Return a run's transitions, archived or not, with actions for chunks above `after`.

        Ordered by chunk. Raises Unavailable if a row is damaged.
        """
        ...

    def mark_archived(self, run: OldRun, *, archive: str) -> bool:
        """Mark a run as archived in a file of this name; return false if it changed meanwhile."""
        ...

    def unmark_archived(self, archive: str) -> None:
        """Undo `mark_archived` for an archive file's runs, of which no row was deleted."""
        ...

    def archives_left(self) -> Sequence[str]:
        """Return the archive files whose runs still have decisions to delete."""
        ...

    def delete_archived(self, archive: str, *, after: int, limit: int) -> Deleted:
        """Delete up to `limit` decisions of an archive file's runs, by key from `after` on.

        The counts in `usage` do not change.
        """
        ...
