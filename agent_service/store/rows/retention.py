"""Old runs and their way out of the store, in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from agent_service.domain.retention import Deleted, OldRun, StoredRow
from agent_service.domain.runs import Use
from agent_service.store.rows.checksums import change, check
from agent_service.store.rows.rollouts import IS_READY, slices
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import controllers, decisions, is_archived, runs

_of_run = decisions.c.run_key == runs.c.key
_CELLS = 8 * 12
"""Bytes of a decision's numbers, beside its arrays and texts."""


class RetentionSql(Transaction):
    """What the store port's `Session` says of runs that leave the store."""

    def old_runs(self, *, before: float, after: int, limit: int) -> Sequence[OldRun]:
        """See the port."""
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
                sa.select(sa.func.coalesce(sa.func.sum(_size()), 0))
                .where(decisions.c.run_key == found.c.key)
                .scalar_subquery()
                .label("size"),
            )
        ).order_by(found.c.key)
        return [_old_run(row) for row in self._rows(query)]

    def stored_rows(self, run: OldRun, *, after: int, limit: int) -> Sequence[StoredRow]:
        """See the port."""
        query = queries.DECISIONS.where(decisions.c.run_key == run.key, decisions.c.chunk > after)
        # A run that another prune marks meanwhile has no more pages, so it is left out.
        query = query.where(queries.KEPT).order_by(decisions.c.chunk).limit(limit)
        found = self._rows(query)
        for row in found:
            for table, prefix in TABLES:
                check(table, row, prefix)
        return found

    def mark_archived(self, run: OldRun, *, archive: str, checksums: int) -> bool:
        """See the port."""
        stands = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(decisions.c.checksum), 0)
        ).where(decisions.c.run_key == run.key)
        count, total = self._connection.execute(stands).one()
        if (count, int(total)) != (run.decisions, checksums):
            return False
        adds = change(runs, {}, {"archive": archive})
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

    def archived_runs(self, archive: str) -> set[str]:
        """See the port."""
        query = sa.select(runs.c.id).where(runs.c.archive == archive)
        return set(self._connection.execute(query).scalars())

    def archives(self) -> Mapping[str, int]:
        """See the port."""
        query = sa.select(runs.c.archive, sa.func.count()).where(is_archived)
        found = self._connection.execute(query.group_by(runs.c.archive))
        return {archive: count for archive, count in found}

    def archives_left(self) -> Sequence[str]:
        """See the port."""
        has_rows = sa.select(1).select_from(decisions).where(_of_run).exists()
        query = sa.select(runs.c.archive).where(is_archived, has_rows).distinct()
        return sorted(self._connection.execute(query).scalars())

    def delete_archived(self, archive: str, *, after: int, limit: int) -> Deleted:
        """See the port."""
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
        # Those that were learned from are counted by their policies.
        query = sa.select(controllers.c.archived_recorded).where(controllers.c.id == controller_id)
        (before,) = self._rows(query)
        after = {"archived_recorded": (before["archived_recorded"] or 0) + recorded}
        adds = change(controllers, before, after)
        update = sa.update(controllers).where(controllers.c.id == controller_id)
        self.write(update.values(**after, checksum=controllers.c.checksum + adds))


TABLES = ((decisions, "decision_"), (runs, "run_"), (controllers, "controller_"))
"""What a stored row is joined of, each with the prefix of its columns' names in it."""


def _size() -> sa.ColumnElement[int]:
    """Return the bytes of a decision's values, in a query."""
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
