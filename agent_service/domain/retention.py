"""What a store is asked for when old runs are archived and leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_service.domain.runs import Run, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRun:
    """A run that has ended, finished or abandoned, and whose last accepted call is long ago."""

    key: int
    """The store's key."""
    id: str
    controller: str
    updated_at: float
    """Seconds since 1970, of its last accepted call."""
    is_finished: bool
    """Whether it has an outcome; else its lease ran out, and its next report may revive it."""
    decisions: int
    """Rows of the log."""
    checksums: int
    """The sum of these rows' checksums: another one after any change."""
    size: int
    """Bytes of these rows' values."""
    is_awaited: bool
    """Whether a controller that is not deleted has yet to learn from it."""
    is_newest: bool
    """Whether the log ends with it, so that the next position follows from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What one small step deleted."""

    rows: int
    last_key: int
    """Of the run that the step came to; the next step goes on there."""


class Retention(Protocol):
    """What the store port's `Session` says of runs that leave the store.

    A run leaves in two moves. It is marked as archived, which takes it out of all that is read, in
    one atomic step: from then on the archive file is where it is. Then its decisions are deleted, a
    few at a time. Its own row stays, so that its id is never given to another one.
    """

    def old_runs(self, *, before: float, after: int, limit: int) -> Sequence[OldRun]:
        """Return ended runs whose last accepted call came before `before`, by key, above `after`.

        Archived ones are left out.
        """
        ...

    def run_transitions(
        self, key: int, *, after: int, limit: int
    ) -> Sequence[tuple[Run, Transition]]:
        """Return a run's transitions, archived or not, whose actions are for chunks above `after`.

        By chunk. Raises Unavailable where a row is damaged.
        """
        ...

    def mark_archived(self, run: OldRun, *, archive: str) -> bool:
        """Store that a run is in an archive file, by its name; return whether it is as it was."""
        ...

    def unmark_archived(self, archive: str) -> None:
        """Take back that runs are in an archive file; none of their rows was deleted."""
        ...

    def archives_left(self) -> Sequence[str]:
        """Return the archive files of which the store still has decisions that are to go."""
        ...

    def delete_archived(self, archive: str, *, after: int, limit: int) -> Deleted:
        """Delete decisions of an archive file's runs, `limit` at the most, by key from `after` on.

        What they were counted as in `usage` stays so.
        """
        ...
