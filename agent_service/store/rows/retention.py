"""Archiving and deletion of old runs, in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from agent_service.domain.runs import Run, Transition, Use
from agent_service.store.rows import rows
from agent_service.store.rows.checksums import checksum_delta
from agent_service.store.rows.rollouts import IS_READY, slices
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import controllers, decisions, is_archived, runs

_of_run = decisions.c.run_key == runs.c.key
_CELLS = 8 * 12
"""Bytes of a decision's numeric columns."""


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


class Retention(Transaction):
    """The session's methods for runs that leave the store.

    A run leaves in two steps. First it is marked as archived, which hides it from all reads, in one
    atomic step: from then on the archive file has it. Then its decisions are deleted in small
    batches. Its own row stays, so that its id is never reused.
    """

    def old_runs(self, *, before: float, after: int, limit: int) -> Sequence[OldRun]:
        """Return ended runs, by key above `after`, whose last accepted call was before `before`.

        Without archived ones.
        """
        awaited = (
            sa.select(decisions.c.run_key)
            .join(controllers, controllers.c.id == decisions.c.controller_id)
            .where(IS_READY, controllers.c.deleted_at.is_(None))
        )
        newest = sa.select(decisions.c.run_key).order_by(decisions.c.position.desc()).limit(1)
        found = (
            sa.select(
                runs.c.key,
                runs.c.id,
                runs.c.controller_id,
                runs.c.updated_at,
                runs.c.outcome.is_not(None).label("is_finished"),
                runs.c.key.in_(awaited).label("is_awaited"),
                (runs.c.key == newest.scalar_subquery()).label("is_newest"),
            )
            .where(runs.c.key > after, queries.KEPT, runs.c.updated_at < before)
            .where(runs.c.outcome.is_not(None) | runs.c.abandoned_at.is_not(None))
            .order_by(runs.c.key)
            .limit(limit)
            .subquery()
        )
        query = (
            sa.select(
                *(column for column in found.c if column.name != "controller_id"),
                sa.select(controllers.c.name)
                .where(controllers.c.id == found.c.controller_id)
                .scalar_subquery()
                .label("controller"),
                sa.select(sa.func.count())
                .where(decisions.c.run_key == found.c.key)
                .scalar_subquery()
                .label("decisions"),
                sa.select(sa.cast(_checksums(), sa.BigInteger))
                .where(decisions.c.run_key == found.c.key)
                .scalar_subquery()
                .label("checksums"),
                sa.select(sa.func.coalesce(sa.func.sum(_size()), 0))
                .where(decisions.c.run_key == found.c.key)
                .scalar_subquery()
                .label("size"),
            )
        ).order_by(found.c.key)
        return [_old_run(row) for row in self._rows(query)]

    def run_transitions(
        self, key: int, *, after: int, limit: int
    ) -> Sequence[tuple[Run, Transition]]:
        """Return a run's transitions, archived or not, with actions for chunks above `after`.

        Ordered by chunk. Raises Unavailable if a row is damaged.
        """
        query = queries.TRANSITIONS.where(runs.c.key == key, decisions.c.chunk > after)
        query = query.order_by(decisions.c.chunk).limit(limit)
        return [(rows.run_from_row(r), rows.transition_from_row(r)) for r in self._rows(query)]

    def mark_archived(self, run: OldRun, *, archive: str) -> bool:
        """Mark a run as archived in a file of this name; return false if it changed meanwhile."""
        stands = sa.select(sa.func.count(), sa.cast(_checksums(), sa.BigInteger))
        found = self._connection.execute(stands.where(decisions.c.run_key == run.key)).one()
        if tuple(found) != (run.decisions, run.checksums):
            return False
        adds = checksum_delta(runs, {}, {"archive": archive})
        ended = runs.c.outcome if run.is_finished else runs.c.abandoned_at
        query = sa.update(runs).where(
            runs.c.key == run.key,
            queries.KEPT,
            runs.c.updated_at == run.updated_at,
            runs.c.outcome.is_not(None) == run.is_finished,
            ended.is_not(None),
        )
        marked = self.write(query.values(archive=archive, checksum=runs.c.checksum + adds))
        return bool(marked.rowcount == 1)

    def unmark_archived(self, archive: str) -> None:
        """Undo `mark_archived` for an archive file's runs, of which no row was deleted."""
        adds = checksum_delta(runs, {"archive": archive}, {"archive": None})
        query = sa.update(runs).where(runs.c.archive == archive)
        self.write(query.values(archive=None, checksum=runs.c.checksum + adds))

    def archives_left(self) -> Sequence[str]:
        """Return the archive files whose runs still have decisions to delete."""
        has_rows = sa.select(1).select_from(decisions).where(_of_run).exists()
        query = sa.select(runs.c.archive).where(is_archived, has_rows).distinct()
        return sorted(self._connection.execute(query).scalars())

    def delete_archived(self, archive: str, *, after: int, limit: int) -> Deleted:
        """Delete up to `limit` decisions of an archive file's runs, by key from `after` on.

        The counts in `usage` do not change.
        """
        query = (
            sa.select(
                decisions.c.position,
                decisions.c.controller_id,
                decisions.c.use,
                decisions.c.run_key,
            )
            .join(runs, _of_run)
            .where(runs.c.archive == archive, runs.c.key >= after)
            .order_by(runs.c.key)
            .limit(limit)
        )
        found = self._rows(query)
        for some in slices([row["position"] for row in found]):
            self.write(sa.delete(decisions).where(decisions.c.position.in_(some)))
        recorded = Counter(
            row["controller_id"] for row in found if row["use"] == Use.RECORDED.value
        )
        for controller_id, count in recorded.items():
            self._count_archived(controller_id, count)
        return Deleted(rows=len(found), last_key=found[-1]["run_key"] if found else after)

    def _count_archived(self, controller_id: int, recorded: int) -> None:
        # Learned transitions need no such count: policies have theirs.
        query = sa.select(controllers.c.archived_recorded).where(controllers.c.id == controller_id)
        (before,) = self._rows(query)
        after = {"archived_recorded": (before["archived_recorded"] or 0) + recorded}
        adds = checksum_delta(controllers, before, after)
        update = sa.update(controllers).where(controllers.c.id == controller_id)
        self.write(update.values(**after, checksum=controllers.c.checksum + adds))


def _checksums() -> sa.ColumnElement[int]:
    """Return the sum of the decisions' checksums, in a query; rows of old releases add 0."""
    return sa.func.coalesce(sa.func.sum(decisions.c.checksum), 0)


def _size() -> sa.ColumnElement[int]:
    """Return the size in bytes of a decision's values, in a query."""
    bulky = (
        decisions.c.state,
        decisions.c.context,
        decisions.c.sample,
        sa.cast(decisions.c.action, sa.Text),
        sa.cast(decisions.c.applied, sa.Text),
    )
    lengths = [sa.func.coalesce(sa.func.length(column), 0) for column in bulky]
    return sum(lengths, start=sa.literal(_CELLS))


def _old_run(row: Mapping[str, object]) -> OldRun:
    flags = ("is_finished", "is_awaited", "is_newest")
    return OldRun(**{name: bool(v) if name in flags else v for name, v in row.items()})  # type: ignore[arg-type]
