"""One transaction on the tables: the store port's `Session`, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from agent_service.domain.ports import LearnableTransition, PolicyVersion, Usage
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
from agent_service.store.checksums import change, refuse, sealed
from agent_service.store.schema import controllers, decisions, policies, runs

_state = sa.case(
    (runs.c.outcome.is_not(None), RunState.FINISHED.value),
    (runs.c.abandoned_at.is_not(None), RunState.ABANDONED.value),
    else_=RunState.ACTIVE.value,
)


class SqlSession:
    """A session on one connection, valid while its transaction is open."""

    def __init__(self, connection: sa.Connection) -> None:
        """Work on an open transaction of `connection`."""
        self._connection = connection
        self.to_call: list[Callable[[], None]] = []
        """What `after_commit` was told."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Note what to call once this is durable."""
        self.to_call.append(call)

    # Controllers

    def find_controller(self, name: str) -> Controller | None:
        """See the port."""
        query = queries.CONTROLLERS.where(controllers.c.name == name)
        row = self._connection.execute(query).mappings().one_or_none()
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
        result = self._connection.execute(sa.insert(controllers), sealed(controllers, row))
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
        self._connection.execute(query.values(**values, checksum=checksum))

    def usage(self, controller: Controller) -> Usage:
        """See the port."""
        by_state = self._counts(_state, runs, controller)
        by_use = self._counts(decisions.c.use, decisions, controller)
        return Usage(
            runs={state: by_state.get(state.value, 0) for state in RunState},
            ready=by_use.get(Use.READY, 0),
            learned=by_use.get(Use.LEARNED, 0),
            recorded=by_use.get(Use.RECORDED, 0),
        )

    def _counts(
        self, by: sa.ColumnElement[Any], table: sa.Table, controller: Controller
    ) -> dict[Any, int]:
        query = sa.select(by, sa.func.count()).where(table.c.controller_id == controller.id)
        return {key: count for key, count in self._connection.execute(query.group_by(by))}

    # Policies

    def add_policy(self, controller: Controller, policy: PolicyVersion) -> None:
        """See the port."""
        row = {
            "controller_id": controller.id,
            "version": policy.version,
            "data": policy.data,
            "statistics": dict(policy.statistics),
            "created_at": policy.created_at,
        }
        self._connection.execute(sa.insert(policies), sealed(policies, row))
        self._update_controller(controller, policy_version=policy.version)

    def find_policy(self, controller: Controller, version: int) -> PolicyVersion | None:
        """See the port."""
        query = sa.select(policies).where(
            policies.c.controller_id == controller.id, policies.c.version == version
        )
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else rows.whole_policy_from_row(row)

    def policy_statistics(self, controller: Controller) -> Sequence[PolicyVersion]:
        """See the port."""
        query = (
            sa.select(policies.c.version, policies.c.statistics, policies.c.created_at)
            .where(policies.c.controller_id == controller.id)
            .order_by(policies.c.version)
        )
        return [rows.policy_from_row(row, b"") for row in self._rows(query)]

    # Runs

    def find_run(self, run_id: str) -> Run | None:
        """See the port."""
        names = {"run_id": run_id}
        row = self._connection.execute(queries.FIND_RUN, names).mappings().one_or_none()
        return None if row is None else rows.run_from_row(row)

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
            "labels": dict(start.labels),
            "pinned_version": pinned_version,
            "reported_chunks": 0,
            "created_at": now,
            "updated_at": now,
        }
        self._connection.execute(sa.insert(runs), sealed(runs, row))
        run = self.find_run(start.run_id)
        assert run is not None
        return run

    def requested_mode(self, run: Run) -> Mode | None:
        """See the port."""
        query = sa.select(runs.c.requested_mode).where(runs.c.key == run.key)
        mode = self._connection.execute(query).scalar_one()
        return None if mode is None else Mode(mode)

    def count_chunk(self, run: Run, *, now: float) -> None:
        """See the port."""
        chunks = run.reported_chunks + 1
        after = {"reported_chunks": chunks, "updated_at": now, "abandoned_at": None}
        names = {"of_run": run.key, "chunks": chunks, "now": now}
        names["change"] = change(runs, rows.run_changes(run), after)
        self._connection.execute(queries.COUNT_CHUNK, names)

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
        query = sa.update(runs).where(runs.c.key == run.key)
        self._connection.execute(query.values(**values, checksum=checksum))

    # The log

    def append(self, run: Run, decision: Decision) -> Decision:
        """See the port."""
        keys = {"run_key": run.key, "controller_id": run.controller.id}
        row = sealed(decisions, keys | rows.decision_to_row(decision))
        result = self._connection.execute(queries.APPEND, row)
        inserted = result.inserted_primary_key
        assert inserted is not None
        return replace(decision, position=inserted[0])

    def find_decision(self, run: Run, chunk: int) -> Decision | None:
        """See the port."""
        names = {"run_id": run.id, "chunk": chunk}
        row = self._connection.execute(queries.FIND_DECISION, names).mappings().one_or_none()
        return None if row is None else rows.decision_from_row(row)

    def set_use(self, run: Run, chunk: int, *, was: Use, use: Use) -> None:
        """See the port."""
        names = {"of_run": run.key, "of_chunk": chunk, "was": was.value, "becomes": use.value}
        names["change"] = change(decisions, {"use": was.value}, {"use": use.value})
        self._connection.execute(queries.SET_USE, names)

    def transitions(
        self, *, controller: str, run_id: str, after: int, limit: int
    ) -> Sequence[tuple[Run, Transition]]:
        """See the port."""
        query = queries.TRANSITIONS.where(after < queries.FOLLOWING_POSITION)
        if controller:
            query = query.where(controllers.c.name == controller)
        if run_id:
            query = query.where(runs.c.id == run_id)
        query = query.order_by(queries.FOLLOWING_POSITION).limit(limit)
        return [(rows.run_from_row(r), rows.transition_from_row(r)) for r in self._rows(query)]

    def decisions(self, *, after: int, limit: int) -> Sequence[tuple[Run, Decision]]:
        """See the port."""
        query = queries.DECISIONS.where(decisions.c.position > after)
        query = query.order_by(decisions.c.position).limit(limit)
        return [(rows.run_from_row(r), rows.decision_from_row(r)) for r in self._rows(query)]

    # Learning

    def are_ready(self, controller: Controller, *, count: int) -> bool:
        """See the port."""
        query = sa.select(decisions.c.position).where(
            decisions.c.controller_id == controller.id, decisions.c.use == Use.READY.value
        )
        last = query.order_by(decisions.c.position).limit(1).offset(count - 1)
        return self._connection.execute(last).one_or_none() is not None

    def ready_transitions(
        self, controller: Controller, *, limit: int
    ) -> Sequence[LearnableTransition]:
        """See the port."""
        query = queries.TRANSITIONS.where(
            decisions.c.controller_id == controller.id, decisions.c.use == Use.READY.value
        )
        found = self._rows(query.order_by(decisions.c.position).limit(limit))
        return [_learnable(r) for r in found]

    def mark_learned(self, transitions: Sequence[LearnableTransition], *, version: int) -> None:
        """See the port."""
        self._mark(transitions, use=Use.LEARNED.value, learned_in=version)

    def mark_recorded(self, transitions: Sequence[LearnableTransition]) -> None:
        """See the port."""
        self._mark(transitions, use=Use.RECORDED.value)

    def _mark(self, transitions: Sequence[LearnableTransition], **values: Any) -> None:
        # Row by row: a rollout may be longer than a statement may have variables.
        query = sa.update(decisions).where(decisions.c.position == sa.bindparam("marked"))
        checksum = decisions.c.checksum + sa.bindparam("change")
        # All are ready, so learned_in is empty before.
        adds = change(decisions, {"use": Use.READY.value}, values)
        marked = [{"marked": t.transition.decision.position, "change": adds} for t in transitions]
        self._connection.execute(query.values(**values, checksum=checksum), marked)

    def _rows(self, query: sa.Executable) -> sa.MappingResult:
        return self._connection.execute(query).mappings()


def _learnable(row: rows.Row) -> LearnableTransition:
    run, transition = rows.run_from_row(row), rows.transition_from_row(row)
    if transition.decision.use is not Use.READY:
        refuse(decisions, row, "decision_")  # a damaged index led here
    is_last = transition.decision.chunk == run.reported_chunks and not run.has_end
    ends = is_last and run.outcome is not None and run.outcome.is_terminal
    is_end = transition.feedback is None
    return LearnableTransition(transition=transition, ends_episode=ends or is_end)
