"""One transaction on the tables: the store port's `Session`, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import sqlalchemy as sa

from agent_service.domain.ports import LearnableTransition, PolicyEntry, PolicyVersion, Usage
from agent_service.domain.runs import (
    Controller,
    Decision,
    Mode,
    Outcome,
    Run,
    RunState,
    StartRun,
    Transition,
    Use,
)
from agent_service.domain.specs import ControllerSpec
from agent_service.store import queries, rows
from agent_service.store.checksums import change, sealed
from agent_service.store.known import Known, Overtaken
from agent_service.store.rollouts import IS_READY, read_ready, slices
from agent_service.store.schema import controllers, decisions, is_settled, policies, runs

_state = sa.case(
    (runs.c.outcome.is_not(None), RunState.FINISHED.value),
    (runs.c.abandoned_at.is_not(None), RunState.ABANDONED.value),
    else_=RunState.ACTIVE.value,
)


_use_change = cache(lambda was, use: change(decisions, {"use": was.value}, {"use": use.value}))
"""What a change of use adds to a decision's checksum."""


class SqlSession:
    """A session on one connection, valid while its transaction is open."""

    def __init__(self, connection: sa.Connection, known: Known) -> None:
        """Work on an open transaction of `connection`, with what is known from earlier ones."""
        self._connection = connection
        self._driver = queries.driver_of(connection)
        self._known = known
        self.changes = 0
        """Writes so far."""
        self.begin_call()

    def begin_call(self) -> None:
        """Begin what one caller wants of the transaction."""
        self.calls: list[Callable[[], None]] = []
        """What `after_commit` was told by this caller."""
        self._looked_up: list[str] = []

    def after_commit(self, call: Callable[[], None]) -> None:
        """Note what to call once this is durable."""
        self.calls.append(call)

    def forget(self) -> None:
        """Have all read again that was known from earlier and concerns this call."""
        self._known.forget_some(self._looked_up)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is done inside, and that alone, where it raises."""
        try:
            with self._connection.begin_nested():
                yield
        except BaseException:
            self._known.forget()
            raise

    # Controllers

    def find_controller(self, name: str) -> Controller | None:
        """See the port."""
        query = queries.CONTROLLERS.where(controllers.c.name == name)
        row = self._row(query)
        return None if row is None else rows.controller_from_row(row)

    def list_controllers(self, *, after: str, limit: int) -> Sequence[Controller]:
        """See the port."""
        query = (
            queries.CONTROLLERS.where(
                controllers.c.deleted_at.is_(None), controllers.c.name > after
            )
            .order_by(controllers.c.name)
            .limit(limit)
        )
        return [rows.controller_from_row(row) for row in self._rows(query)]

    def add_controller(self, spec: ControllerSpec, *, mode: Mode, now: float) -> Controller:
        """See the port."""
        row = {
            "name": spec.name,
            "spec": rows.spec_to_text(spec),
            "mode": mode.value,
            "policy_version": 0,
            "created_at": now,
        }
        result = self.write(sa.insert(controllers).values(sealed(controllers, row)))
        key = result.inserted_primary_key
        assert key is not None
        return Controller(id=key[0], spec=spec, mode=mode, policy_version=0, created_at=now)

    def set_mode(self, controller: Controller, mode: Mode) -> None:
        """See the port."""
        self._update_controller(controller, mode=mode.value)

    def delete_controller(self, controller: Controller, *, now: float) -> None:
        """See the port."""
        self._update_controller(controller, deleted_at=now)

    def _update_controller(self, controller: Controller, **values: Any) -> None:
        # Of those that are not deleted only, so deleted_at is empty before.
        before = {"mode": controller.mode.value, "policy_version": controller.policy_version}
        checksum = controllers.c.checksum + change(controllers, before, values)
        query = sa.update(controllers).where(controllers.c.id == controller.id)
        self.write(query.values(**values, checksum=checksum))
        self._known.forget_controller(controller)

    def usage(self, controller: Controller) -> Usage:
        """See the port."""
        by_state = self._counts(_state, runs.c.controller_id == controller.id)
        by_use = self._counts(
            decisions.c.use, (decisions.c.controller_id == controller.id) & is_settled
        )
        return Usage(
            runs={state: by_state.get(state.value, 0) for state in RunState},
            ready=by_use.get(Use.READY, 0),
            learned=by_use.get(Use.LEARNED, 0),
            recorded=by_use.get(Use.RECORDED, 0),
        )

    def _counts(self, by: sa.ColumnElement[Any], where: sa.ColumnElement[bool]) -> dict[Any, int]:
        query = sa.select(by, sa.func.count()).where(where).group_by(by)
        return {key: count for key, count in self._connection.execute(query)}

    # Policies

    def add_policy(self, controller: Controller, policy: PolicyVersion) -> None:
        """See the port."""
        row = {
            "controller_id": controller.id,
            "version": policy.version,
            "data": policy.data,
            "origin": policy.origin.value,
            "learned_transitions": policy.learned_transitions,
            "statistics": dict(policy.statistics),
            "created_at": policy.created_at,
        }
        self.write(sa.insert(policies).values(sealed(policies, row)))
        self._update_controller(controller, policy_version=policy.version)

    def find_policy(self, controller: Controller, version: int) -> PolicyVersion | None:
        """See the port."""
        query = sa.select(policies).where(
            policies.c.controller_id == controller.id, policies.c.version == version
        )
        row = self._row(query)
        return None if row is None else rows.policy_from_row(row)

    def list_policies(
        self, controller: Controller, *, before: int | None, limit: int
    ) -> Sequence[PolicyEntry]:
        """See the port."""
        told = [column for column in policies.columns if column is not policies.c.data]
        query = sa.select(*told, sa.func.length(policies.c.data).label("size")).where(
            policies.c.controller_id == controller.id
        )
        if before is not None:
            query = query.where(policies.c.version < before)
        query = query.order_by(policies.c.version.desc()).limit(limit)
        return [rows.policy_entry_from_row(row) for row in self._rows(query)]

    # Runs

    def find_run(self, run_id: str) -> Run | None:
        """See the port."""
        self._looked_up.append(run_id)
        run = self._known.run(run_id)
        if run is not None:
            return self._known.with_controller(run, self._controller(run))
        names = {"run_id": run_id}
        row = self._row(queries.FIND_RUN, names)
        if row is None:
            return None
        run = rows.run_from_row(row)
        self._known.learn_controller(run.controller)
        self._known.learn_run(run)
        return run

    def _controller(self, run: Run) -> Controller:
        """Return the controller of a known run as it stands now."""
        key = run.controller.id
        controller = self._known.controller(key)
        if controller is None:
            query = queries.CONTROLLERS.where(controllers.c.id == key)
            (row,) = self._rows(query)
            controller = rows.controller_from_row(row)
            self._known.learn_controller(controller)
        return controller

    def list_runs(
        self,
        *,
        controller: str,
        state: RunState | None,
        labels: Mapping[str, str],
        before: int | None,
        limit: int,
    ) -> Sequence[Run]:
        """See the port."""
        query = queries.RUNS
        if controller:
            query = query.where(controllers.c.name == controller)
        if state is not None:
            query = query.where(_state == state.value)
        for key, text in labels.items():
            # Not by a JSON path: there is none for some keys, such as one with a quotation mark.
            label = sa.func.json_each(runs.c.labels).table_valued("key", "value")
            is_there = sa.select(1).select_from(label)
            is_there = is_there.where(label.c.key == key, label.c.value == text)
            query = query.where(is_there.exists())
        if before is not None:
            query = query.where(runs.c.key < before)
        query = query.order_by(runs.c.key.desc()).limit(limit)
        return [rows.run_from_row(row) for row in self._rows(query)]

    def add_run(
        self,
        start: StartRun,
        controller: Controller,
        *,
        mode: Mode,
        pinned_version: int | None,
        now: float,
    ) -> Run:
        """See the port."""
        row = {
            "id": start.run_id,
            "controller_id": controller.id,
            "mode": mode.value,
            "requested_mode": None if start.mode is None else start.mode.value,
            "requested_version": start.policy_version,
            "planned_chunks": start.planned_chunks,
            "labels": dict(start.labels),
            "pinned_version": pinned_version,
            "reported_chunks": 0,
            "created_at": now,
            "updated_at": now,
        }
        self.write(sa.insert(runs).values(sealed(runs, row)))
        run = self.find_run(start.run_id)
        assert run is not None
        return run

    def requested_mode(self, run: Run) -> Mode | None:
        """See the port."""
        query = sa.select(runs.c.requested_mode).where(runs.c.key == run.key)
        mode = self._connection.execute(query).scalar_one()
        return None if mode is None else Mode(mode)

    def requested_version(self, run: Run) -> int | None:
        """See the port."""
        query = sa.select(runs.c.requested_version).where(runs.c.key == run.key)
        version: int | None = self._connection.execute(query).scalar_one()
        return version

    def count_chunk(self, run: Run, *, now: float) -> None:
        """See the port."""
        if run.abandoned_at is not None:
            self._update_run(run, abandoned_at=None)
        chunks = run.reported_chunks + 1
        adds = change(
            runs,
            {"reported_chunks": run.reported_chunks, "updated_at": run.updated_at},
            {"reported_chunks": chunks, "updated_at": now},
        )
        values = (chunks, now, adds, run.key, run.reported_chunks)
        if self._run(queries.COUNT_CHUNK, values).rowcount != 1:
            raise Overtaken(run.id)
        counted = replace(run, reported_chunks=chunks, updated_at=now, abandoned_at=None)
        self._known.learn_run(counted)

    def silent_runs(self, *, since: float, limit: int) -> Sequence[Run]:
        """See the port."""
        query = queries.RUNS.where(
            runs.c.outcome.is_(None), runs.c.abandoned_at.is_(None), runs.c.updated_at < since
        )
        found = self._rows(query.order_by(runs.c.updated_at).limit(limit))
        return [rows.run_from_row(row) for row in found]

    def abandon_run(self, run: Run, *, now: float) -> None:
        """See the port."""
        self._update_run(run, abandoned_at=now)

    def finish_run(
        self, run: Run, *, outcome: Outcome, final_score: float | None, now: float
    ) -> None:
        """See the port."""
        self._update_run(run, outcome=outcome.value, final_score=final_score, updated_at=now)

    def _update_run(self, run: Run, **values: Any) -> None:
        checksum = runs.c.checksum + change(runs, rows.run_changes(run), values)
        query = sa.update(runs).where(
            runs.c.key == run.key,
            runs.c.reported_chunks == run.reported_chunks,
            runs.c.outcome.is_(None),
        )
        if self.write(query.values(**values, checksum=checksum)).rowcount != 1:
            raise Overtaken(run.id)
        self._known.forget_run(run)

    # The log

    def next_position(self) -> int:
        """See the port."""
        if self._known.next_position is None:
            self._known.next_position = self.last_position() + 1
        return self._known.next_position

    def append(self, run: Run, decision: Decision) -> None:
        """See the port."""
        self._run(queries.APPEND, rows.decision_to_row(run, decision))
        self._known.next_position = decision.position + 1
        if not decision.is_end:
            self._known.learn_newest(run, decision)

    def find_decision(self, run: Run, chunk: int) -> Decision | None:
        """See the port."""
        newest = self._known.newest(run)
        if newest is not None and newest.chunk == chunk:
            return newest
        names = {"run_id": run.id, "chunk": chunk}
        row = self._row(queries.FIND_DECISION, names)
        return None if row is None else rows.decision_from_row(row)

    def applied_values(self, run: Run) -> Sequence[Mapping[str, float]]:
        """See the port."""
        query = sa.select(decisions.c.applied).where(
            decisions.c.run_key == run.key, decisions.c.applied.is_not(None)
        )
        return self._connection.execute(query).scalars().all()

    def set_use(self, run: Run, chunk: int, *, was: Use, use: Use) -> None:
        """See the port."""
        self._run(queries.SET_USE, (use.value, _use_change(was, use), run.key, chunk, was.value))

    def transitions(
        self, *, controller: str, run_id: str, after: int, limit: int
    ) -> Sequence[tuple[Run, Transition]]:
        """See the port."""
        query = queries.TRANSITIONS.where(after < queries.FOLLOWING_POSITION).limit(limit)
        if controller:
            query = query.where(queries.OF_CONTROLLER).params(of_name=controller)
        if run_id:
            query = query.where(runs.c.id == run_id).order_by(queries.FOLLOWING_CHUNK)
        else:
            query = query.order_by(queries.FOLLOWING_POSITION)
        return [(rows.run_from_row(r), rows.transition_from_row(r)) for r in self._rows(query)]

    def last_position(self) -> int:
        """See the port."""
        query = sa.select(sa.func.coalesce(sa.func.max(decisions.c.position), 0))
        position: int = self._connection.execute(query).scalar_one()
        return position

    def decisions(self, *, after: int, limit: int) -> Sequence[tuple[Run, Decision]]:
        """See the port."""
        query = queries.DECISIONS.where(decisions.c.position > after)
        query = query.order_by(decisions.c.position).limit(limit)
        return [(rows.run_from_row(r), rows.decision_from_row(r)) for r in self._rows(query)]

    # Learning

    def are_ready(self, controller: Controller, *, count: int) -> bool:
        """See the port."""
        query = sa.select(decisions.c.position).where(
            decisions.c.controller_id == controller.id, IS_READY
        )
        last = query.order_by(decisions.c.position).limit(1).offset(count - 1)
        return self._connection.execute(last).one_or_none() is not None

    def ready_transitions(
        self, controller: Controller, *, limit: int
    ) -> Sequence[LearnableTransition]:
        """See the port."""
        return read_ready(self._rows, controller, limit=limit)

    def mark_learned(self, transitions: Sequence[LearnableTransition], *, version: int) -> None:
        """See the port."""
        self._mark(transitions, use=Use.LEARNED.value, learned_in=version)

    def mark_recorded(self, transitions: Sequence[LearnableTransition]) -> None:
        """See the port."""
        self._mark(transitions, use=Use.RECORDED.value)

    def _mark(self, transitions: Sequence[LearnableTransition], **values: Any) -> None:
        # All are ready, so learned_in is empty before.
        adds = change(decisions, {"use": Use.READY.value}, values)
        query = sa.update(decisions).values(**values, checksum=decisions.c.checksum + adds)
        for some in slices([t.transition.decision.position for t in transitions]):
            self.write(query.where(decisions.c.position.in_(some)))

    def _run(self, statement: queries.Statement, values: Sequence[Any]) -> Any:
        """Run a statement that is run often, and return the driver's cursor."""
        self.changes += 1
        return statement.run(self._driver, values)

    def write(self, statement: sa.Insert | sa.Update) -> sa.CursorResult[Any]:
        """Run a statement that changes something."""
        self.changes += 1
        return self._connection.execute(statement)

    def _row(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> rows.Row | None:
        found = self._rows(query, names)
        return found[0] if found else None

    def _rows(self, query: sa.Executable, names: Mapping[str, Any] | None = None) -> list[rows.Row]:
        """Return what a query finds as plain dictionaries, which are read many times faster."""
        result = self._connection.execute(query, names)
        columns = tuple(result.keys())
        return [dict(zip(columns, row, strict=True)) for row in result]
