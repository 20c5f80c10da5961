"""Transitions that are ready to be learned from; reading a rollout reads each row once.

The decision that ends one transition begins the next, so a join would read, check and convert
almost every decision twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, TypeVar

import sqlalchemy as sa

from agent_service.domain.runs import Controller, Decision, Run, Use
from agent_service.domain.store import LearnableTransition
from agent_service.store.rows import rows
from agent_service.store.rows.checksums import checksum_delta, raise_damaged
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import decisions, is_settled, runs

T = TypeVar("T")
_Place = tuple[int, int]
"""Run key and chunk of a decision."""

IS_READY = (decisions.c.use == Use.READY.value) & is_settled
_VALUES_AT_ONCE = 500


def _with_ready() -> sa.Select[tuple[int]]:
    """Return the query for controllers with more than `before` ready transitions.

    One statement for all controllers, since each statement costs ten times the index look-up. It
    skips from controller to controller within the index: in a controller's row, long specs make the
    other columns slow to reach.
    """
    key = decisions.c.controller_id
    first = sa.select(sa.func.min(key).label("id")).where(is_settled).cte(recursive=True)
    following = sa.select(sa.func.min(key)).where(is_settled, key > first.c.id)
    found = first.union_all(sa.select(following.scalar_subquery()).where(first.c.id.is_not(None)))
    ready = sa.select(decisions.c.position).where(key == found.c.id, IS_READY)
    ready = ready.order_by(decisions.c.position).limit(1).offset(sa.bindparam("before"))
    return sa.select(found.c.id).where(ready.scalar_subquery().is_not(None))


WITH_READY = _with_ready()


class Rollouts(Transaction):
    """The session's methods for transitions that updates learn from."""

    def with_ready(self, *, count: int) -> Set[int]:
        """Return the ids of controllers with at least `count` ready transitions, deleted too.

        Reads neither transitions nor controllers.
        """
        return set(self._execute(WITH_READY, {"before": count - 1}).scalars())

    def ready_transitions(
        self, controller: Controller, *, limit: int
    ) -> Sequence[LearnableTransition]:
        """Return the oldest transitions that are ready to be learned from, by position."""
        query = queries.LOGGED.where(decisions.c.controller_id == controller.id, IS_READY)
        ready = self._rows(query.order_by(decisions.c.position).limit(limit))
        for row in ready:
            if row["decision_use"] != Use.READY.value:
                raise_damaged(decisions, row, "decision_")  # found by a damaged index
        made = {_place(row): rows.decision_from_row(row) for row in ready}
        following = made | self._following(made)
        of = self._runs_by_key({key for key, _ in made})
        return [
            _learnable(of[key], decision, following[key, chunk + 1])
            for (key, chunk), decision in made.items()
            if (key, chunk + 1) in following
        ]

    def _following(self, made: dict[_Place, Decision]) -> dict[_Place, Decision]:
        """Return the decisions that end a transition without beginning another one."""
        missing = [(key, chunk + 1) for key, chunk in made if (key, chunk + 1) not in made]
        place = sa.tuple_(decisions.c.run_key, decisions.c.chunk)
        return {
            _place(row): rows.decision_from_row(row)
            for some in slices(missing)
            for row in self._rows(queries.LOGGED.where(place.in_(some)))
        }

    def _runs_by_key(self, keys: set[int]) -> dict[int, Run]:
        return {
            row["run_key"]: rows.run_from_row(row)
            for some in slices(sorted(keys))
            for row in self._rows(queries.RUNS.where(runs.c.key.in_(some)))
        }

    def mark_learned(self, transitions: Sequence[LearnableTransition], *, version: int) -> None:
        """Mark transitions as consumed by the update that made `version`."""
        self._mark(_positions(transitions), use=Use.LEARNED.value, learned_in=version)

    def mark_recorded(self, transitions: Sequence[LearnableTransition]) -> None:
        """Mark transitions as never to be learned from."""
        self._mark(_positions(transitions), use=Use.RECORDED.value)

    def record_stale(self, controller: Controller, *, decided_before: int, limit: int) -> int:
        """Mark ready transitions as never to be learned from if an old policy decided them.

        Args:
            controller: the controller.
            decided_before: policy version; older ones are too old.
            limit: maximum number of transitions, oldest first.

        Returns:
            Their number.
        """
        stale = sa.select(decisions.c.position).where(
            decisions.c.controller_id == controller.id,
            IS_READY,
            decisions.c.policy_version < decided_before,
        )
        positions = self._execute(stale.order_by(decisions.c.position).limit(limit)).scalars().all()
        self._mark(positions, use=Use.RECORDED.value)
        return len(positions)

    def _mark(self, positions: Sequence[int], **values: Any) -> None:
        # All are ready, so their learned_in is NULL.
        adds = checksum_delta(decisions, {"use": Use.READY.value}, values)
        query = sa.update(decisions).values(**values, checksum=decisions.c.checksum + adds)
        for some in slices(positions):
            self.write(query.where(decisions.c.position.in_(some)))


def _place(row: rows.Row) -> _Place:
    return row["decision_run_key"], row["decision_chunk"]


def slices(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the values in slices that fit a statement's limit of parameters."""
    for start in range(0, len(values), _VALUES_AT_ONCE):
        yield values[start : start + _VALUES_AT_ONCE]


def _learnable(run: Run, decision: Decision, following: Decision) -> LearnableTransition:
    transition = rows.transition(decision, following)
    is_last = decision.chunk == run.reported_chunks and not run.has_end
    ends = is_last and run.outcome is not None and run.outcome.is_terminal
    is_end = transition.feedback is None
    return LearnableTransition(transition=transition, ends_episode=ends or is_end)


def _positions(transitions: Sequence[LearnableTransition]) -> list[int]:
    return [t.transition.decision.position for t in transitions]
