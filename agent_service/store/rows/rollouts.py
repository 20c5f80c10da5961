"""Reads a rollout: transitions that are ready to be learned from, reading each row once.

The decision that ends one transition begins the next, so a join would read, check and convert
almost every decision twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa

from agent_service.domain.runs import Controller, Decision, Run, Use
from agent_service.domain.store import LearnableTransition
from agent_service.store.rows import rows
from agent_service.store.rows.checksums import raise_damaged
from agent_service.store.sql import queries
from agent_service.store.sql.schema import decisions, is_settled, runs

T = TypeVar("T")
Read = Callable[[sa.Executable], list[rows.Row]]
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


def read_ready(read: Read, controller: Controller, *, limit: int) -> list[LearnableTransition]:
    """Return the oldest transitions of a controller that are ready to be learned from, by position.

    Args:
        read: returns the rows of a query.
        controller: the controller.
        limit: maximum number of transitions.
    """
    query = queries.LOGGED.where(decisions.c.controller_id == controller.id, IS_READY)
    ready = read(query.order_by(decisions.c.position).limit(limit))
    for row in ready:
        if row["decision_use"] != Use.READY.value:
            raise_damaged(decisions, row, "decision_")  # found by a damaged index
    made = {_place(row): rows.decision_from_row(row) for row in ready}
    following = made | _following(read, made)
    of = _runs(read, {key for key, _ in made})
    return [
        _learnable(of[key], decision, following[key, chunk + 1])
        for (key, chunk), decision in made.items()
        if (key, chunk + 1) in following
    ]


def _place(row: rows.Row) -> _Place:
    return row["decision_run_key"], row["decision_chunk"]


def _following(read: Read, made: dict[_Place, Decision]) -> dict[_Place, Decision]:
    """Return the decisions that end a transition without beginning another one."""
    missing = [(key, chunk + 1) for key, chunk in made if (key, chunk + 1) not in made]
    place = sa.tuple_(decisions.c.run_key, decisions.c.chunk)
    return {
        _place(row): rows.decision_from_row(row)
        for some in slices(missing)
        for row in read(queries.LOGGED.where(place.in_(some)))
    }


def _runs(read: Read, keys: set[int]) -> dict[int, Run]:
    return {
        row["run_key"]: rows.run_from_row(row)
        for some in slices(sorted(keys))
        for row in read(queries.RUNS.where(runs.c.key.in_(some)))
    }


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
