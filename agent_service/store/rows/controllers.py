"""Controllers and their policy versions, in SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from agent_service.domain.runs import Controller, Mode, Outcome, RunState, Use
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import PolicyEntry, PolicyVersion, Usage
from agent_service.store.rows import rows
from agent_service.store.rows.checksums import checksum_delta, with_checksum
from agent_service.store.rows.rollouts import slices
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import (
    controllers,
    decisions,
    is_settled,
    policies,
    run_state,
    runs,
)


class Controllers(Transaction):
    """The session's methods for controllers and policy versions."""

    def find_controller(self, name: str) -> Controller | None:
        """Return the controller of this name, even if deleted."""
        query = queries.CONTROLLERS.where(controllers.c.name == name)
        row = self._row(query)
        return None if row is None else rows.controller_from_row(row)

    def list_controllers(self, *, after: str, limit: int) -> Iterator[Controller]:
        """Yield controllers that are not deleted, ordered by name, after the name `after`.

        Each is read when it is yielded.
        """
        query = sa.select(controllers.c.id).where(
            controllers.c.deleted_at.is_(None), controllers.c.name > after
        )
        return self._one_by_one(query.order_by(controllers.c.name).limit(limit))

    def _one_by_one(self, ids: sa.Select[tuple[int]]) -> Iterator[Controller]:
        for key in self._execute(ids).scalars().all():
            yield from self._by_id([key])

    def newer_controllers(self, *, than: int) -> Iterator[Controller]:
        """Yield controllers with ids above `than`, by id; each is read when it is yielded."""
        query = sa.select(controllers.c.id).where(controllers.c.id > than)
        return self._one_by_one(query.order_by(controllers.c.id))

    def learning_controllers(self, ids: Collection[int]) -> Sequence[Controller]:
        """Return those of these controllers that are learning and not deleted; reads no others."""
        is_learning = controllers.c.mode == Mode.LEARNING.value
        return self._by_id(ids, is_learning, controllers.c.deleted_at.is_(None))

    def _by_id(self, ids: Collection[int], *those: sa.ColumnElement[bool]) -> list[Controller]:
        return [
            rows.controller_from_row(row)
            for some in slices(sorted(ids))
            for row in self._rows(
                queries.CONTROLLERS.where(controllers.c.id.in_(some), *those).order_by(
                    controllers.c.id
                )
            )
        ]

    def has_controllers(self, *, count: int) -> bool:
        """Return whether at least `count` controllers are not deleted."""
        query = sa.select(sa.func.count()).where(controllers.c.deleted_at.is_(None))
        found: int = self._execute(query).scalar_one()
        return found >= count

    def add_controller(self, spec: ControllerSpec, *, mode: Mode, now: float) -> Controller:
        """Store a new controller."""
        row = {
            "name": spec.name,
            "spec": rows.spec_to_text(spec),
            "mode": mode.value,
            "policy_version": 0,
            "created_at": now,
        }
        result = self.write(sa.insert(controllers).values(with_checksum(controllers, row)))
        key = result.inserted_primary_key
        assert key is not None
        return Controller(id=key[0], spec=spec, mode=mode, policy_version=0, created_at=now)

    def set_mode(self, controller: Controller, mode: Mode) -> None:
        """Store a controller's mode."""
        self._update_controller(controller, mode=mode.value)

    def delete_controller(self, controller: Controller, *, now: float) -> None:
        """Mark a controller as deleted."""
        self._update_controller(controller, deleted_at=now)

    def _update_controller(self, controller: Controller, **values: Any) -> None:
        # Only called for controllers that are not deleted, so deleted_at is NULL before.
        before = {"mode": controller.mode.value, "policy_version": controller.policy_version}
        checksum = controllers.c.checksum + checksum_delta(controllers, before, values)
        query = sa.update(controllers).where(controllers.c.id == controller.id)
        self.write(query.values(**values, checksum=checksum))
        self._cache.controllers.pop(controller.id, None)

    def usage(self, controller: Controller) -> Usage:
        """Return the counts of its runs and transitions."""
        of_controller = runs.c.controller_id == controller.id
        by_state = self._counts(run_state, of_controller & runs.c.archive.is_(None))
        by_outcome = self._counts(runs.c.outcome, of_controller & runs.c.outcome.is_not(None))
        # In the log only ready transitions are counted, so the cost does not grow with the log.
        learned = sa.select(sa.func.coalesce(sa.func.sum(policies.c.learned_transitions), 0))
        return Usage(
            runs={state: by_state.get(state.value, 0) for state in RunState},
            outcomes={outcome: by_outcome.get(outcome.value, 0) for outcome in Outcome},
            ready=self._count_decisions(controller, Use.READY),
            learned=int(
                self._execute(learned.where(policies.c.controller_id == controller.id)).scalar_one()
            ),
        )

    def count_recorded(self, controller: Controller) -> int:
        """Return the number of recorded-only transitions, archived ones included; reads each."""
        query = sa.select(controllers.c.archived_recorded).where(controllers.c.id == controller.id)
        archived: int | None = self._execute(query).scalar_one()
        return self._count_decisions(controller, Use.RECORDED) + (archived or 0)

    def _count_decisions(self, controller: Controller, use: Use) -> int:
        query = sa.select(sa.func.count()).where(
            decisions.c.controller_id == controller.id, decisions.c.use == use.value, is_settled
        )
        count: int = self._execute(query).scalar_one()
        return count

    def _counts(self, by: sa.ColumnElement[Any], where: sa.ColumnElement[bool]) -> dict[Any, int]:
        query = sa.select(by, sa.func.count()).where(where).group_by(by)
        found: Sequence[Any] = self._execute(query).all()
        return {key: count for key, count in found}

    def add_policy(self, controller: Controller, policy: PolicyVersion) -> None:
        """Store a policy version and make it the controller's newest."""
        row = {
            "controller_id": controller.id,
            "version": policy.version,
            "data": policy.data,
            "origin": policy.origin.value,
            "learned_transitions": policy.learned_transitions,
            "statistics": dict(policy.statistics),
            "created_at": policy.created_at,
        }
        self.write(sa.insert(policies).values(with_checksum(policies, row)))
        self._update_controller(controller, policy_version=policy.version)

    def find_policy(self, controller: Controller, version: int) -> PolicyVersion | None:
        """Return one policy version."""
        query = sa.select(policies).where(
            policies.c.controller_id == controller.id, policies.c.version == version
        )
        row = self._row(query)
        return None if row is None else rows.policy_from_row(row)

    def list_policies(
        self, controller: Controller, *, before: int | None, limit: int
    ) -> Sequence[PolicyEntry]:
        """Return policy versions below `before`, newest first, without reading their data."""
        listed = [column for column in policies.columns if column is not policies.c.data]
        query = sa.select(*listed, sa.func.length(policies.c.data).label("size")).where(
            policies.c.controller_id == controller.id
        )
        if before is not None:
            query = query.where(policies.c.version < before)
        query = query.order_by(policies.c.version.desc()).limit(limit)
        return [rows.policy_entry_from_row(row) for row in self._rows(query)]
