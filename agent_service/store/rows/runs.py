"""Runs, in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Controller, Mode, Outcome, Run, RunState, StartRun
from agent_service.store.rows import rows
from agent_service.store.rows.cache import StaleWrite
from agent_service.store.rows.checksums import (
    as_stored,
    checksum_delta,
    column_checksum,
    with_checksum,
)
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import controllers, is_on_lease, run_state, runs


class Runs(Transaction):
    """The session's methods for runs."""

    def find_run(self, run_id: str) -> Run | None:
        """Return one run."""
        self.looked_up.append(run_id)
        cached = self._cache.runs.get(run_id)
        if cached is None:
            return self._read_run(run_id)
        key = cached.run.controller.id
        controller = self._cache.controllers.get(key) or self._read_controller(key)
        if cached.run.controller is not controller:
            cached.run = replace(cached.run, controller=controller)
        return cached.run

    def _read_run(self, run_id: str) -> Run | None:
        names = {"run_id": run_id}
        row = self._row(queries.FIND_RUN, names)
        if row is None:
            return None
        run = rows.run_from_row(row)
        self._cache.controllers[run.controller.id] = run.controller
        if run.state is RunState.ACTIVE:
            # Other runs rarely report again, and another process may prune them.
            self._cache.keep_run(run)
        return run

    def prefetch(self, run_ids: Iterable[str]) -> None:
        """Read runs that will be looked up, with their newest decisions, in one query."""
        unknown = sorted({run_id for run_id in run_ids if self._cache.runs.get(run_id) is None})
        if not unknown:
            return
        for row in self._rows(queries.RUNNING.where(runs.c.id.in_(unknown))):
            self._cache.next_position = row["last_position"] + 1
            try:
                run, newest = rows.run_from_row(row), rows.decision_from_row(row)
            except Unavailable:
                continue  # damaged: reported to the caller that looks it up
            self._cache.controllers[run.controller.id] = run.controller
            if run.state is RunState.ACTIVE:  # as in _read_run
                self._cache.keep_run(run, newest)

    def _read_controller(self, key: int) -> Controller:
        (row,) = self._rows(queries.CONTROLLERS.where(controllers.c.id == key))
        controller = self._cache.controllers[key] = rows.controller_from_row(row)
        return controller

    def list_runs(
        self,
        *,
        controller: str,
        state: RunState | None,
        labels: Mapping[str, str],
        before: int | None,
        limit: int,
    ) -> Iterator[Run]:
        """Yield runs, newest first, with keys below `before`."""
        query = queries.RUNS.where(queries.KEPT)
        if controller:
            query = query.where(controllers.c.name == controller)
        if state is not None:
            query = query.where(run_state == state.value)
        for key, text in labels.items():
            # Not by a JSON path, which cannot express some keys, such as ones with quotation marks.
            label = self._each(runs.c.labels).table_valued("key", "value")
            is_there = sa.select(1).select_from(label)
            is_there = is_there.where(label.c.key == key, label.c.value == text)
            query = query.where(is_there.exists())
        if before is not None:
            query = query.where(runs.c.key < before)
        query = query.order_by(runs.c.key.desc()).limit(limit)
        yield from map(rows.run_from_row, self._each_row(query))

    def _each(self, column: sa.ColumnElement[Any]) -> sa.Function[Any]:
        """Return a table-valued function of a JSON object's keys and texts."""
        is_sqlite = self._connection.dialect.name == "sqlite"
        return sa.func.json_each(column) if is_sqlite else sa.func.json_each_text(column)

    def has_active_runs(self, *, count: int) -> bool:
        """Return whether at least `count` runs are active."""
        most = self._cache.most_active
        if most is None or most >= count:
            # Counted in the index, reading no row; cached, or each start would walk the index.
            found = sa.select(runs.c.key).where(is_on_lease).limit(count).subquery()
            most = self._execute(sa.select(sa.func.count()).select_from(found)).scalar_one()
            self._cache.most_active = most
        return most >= count

    def add_run(
        self,
        start: StartRun,
        controller: Controller,
        *,
        mode: Mode,
        pinned_version: int | None,
        now: float,
    ) -> Run:
        """Store a new run."""
        row = {
            "id": start.run_id,
            "controller_id": controller.id,
            "mode": mode.value,
            "requested_mode": None if start.mode is None else start.mode.value,
            "requested_version": start.policy_version,
            "planned_chunks": start.planned_chunks,
            "problem": None if start.problem is None else start.problem.known(),
            "labels": dict(start.labels),
            "pinned_version": pinned_version,
            "reported_chunks": 0,
            "created_at": now,
            "updated_at": now,
        }
        self.write(sa.insert(runs).values(with_checksum(runs, row)))
        self._cache.count_active()
        run = self.find_run(start.run_id)
        assert run is not None
        return run

    def requested_mode(self, run: Run) -> Mode | None:
        """Return the mode that the run's start requested; None if it requested none."""
        query = sa.select(runs.c.requested_mode).where(runs.c.key == run.key)
        mode = self._execute(query).scalar_one()
        return None if mode is None else Mode(mode)

    def requested_version(self, run: Run) -> int | None:
        """Return the policy version that the run's start requested; None if it requested none."""
        query = sa.select(runs.c.requested_version).where(runs.c.key == run.key)
        version: int | None = self._execute(query).scalar_one()
        return version

    def count_chunk(self, run: Run, *, now: float) -> None:
        """Increment the run's count of reported chunks, and revive it if it was abandoned."""
        if run.abandoned_at is not None:
            self._update_run(run, abandoned_at=None)
            self._cache.count_active()
        chunks = run.reported_chunks + 1
        adds = column_checksum("reported_chunks", chunks) + column_checksum("updated_at", now)
        adds -= column_checksum("reported_chunks", run.reported_chunks)
        adds -= column_checksum("updated_at", run.updated_at)
        values = (chunks, now, adds, run.key, run.reported_chunks)
        self.sender.send(queries.COUNT_CHUNK, values, changes=run.id)
        counted = replace(run, reported_chunks=chunks, updated_at=now, abandoned_at=None)
        if (cached := self._cache.runs.get(run.id)) is None:
            self._cache.keep_run(counted)
        else:
            cached.run = counted

    def silent_runs(self, *, since: float, limit: int) -> Sequence[Run]:
        """Return active runs whose last accepted call was before `since`, oldest first."""
        query = queries.RUNS.where(is_on_lease, runs.c.updated_at < since)
        found = self._rows(query.order_by(runs.c.updated_at).limit(limit))
        return [rows.run_from_row(row) for row in found]

    def abandon_run(self, run: Run, *, now: float) -> None:
        """Mark a run as abandoned, since its lease expired."""
        self._update_run(run, abandoned_at=now)

    def finish_run(
        self, run: Run, *, outcome: Outcome, final_score: float | None, now: float
    ) -> None:
        """Store a run's outcome and final score."""
        self._update_run(run, outcome=outcome.value, final_score=final_score, updated_at=now)

    def _update_run(self, run: Run, **values: Any) -> None:
        checksum = runs.c.checksum + checksum_delta(runs, rows.run_changes(run), values)
        query = sa.update(runs).where(
            runs.c.key == run.key,
            runs.c.reported_chunks == run.reported_chunks,
            runs.c.outcome.is_(None),
        )
        stored = as_stored(runs, values)
        if self.write(query.values(**stored, checksum=checksum)).rowcount != 1:
            raise StaleWrite(run.id)
        self._cache.runs.drop(run.id)
