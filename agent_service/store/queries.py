"""Statements that are made once: what every report needs, and what joins tables.

Making one anew costs more than running it: half of a report's time, when it was measured. Columns
of joins carry the prefix that `rows` reads them by.
"""

from __future__ import annotations

import sqlalchemy as sa

from agent_service.store.schema import controllers, decisions, runs


def _labelled(table: sa.FromClause, prefix: str) -> list[sa.Label[object]]:
    return [column.label(f"{prefix}{column.name}") for column in table.columns]


_following = decisions.alias("following")
_RUN = [*_labelled(runs, "run_"), *_labelled(controllers, "controller_")]

FOLLOWING_POSITION = _following.c.position
"""In TRANSITIONS: the position of the report that completed the transition."""

CONTROLLERS = sa.select(*_labelled(controllers, "controller_"))
RUNS = sa.select(*_RUN).join_from(runs, controllers, runs.c.controller_id == controllers.c.id)
FIND_RUN = RUNS.where(runs.c.id == sa.bindparam("run_id"))
DECISIONS = (
    sa.select(*_labelled(decisions, "decision_"), *_RUN)
    .select_from(decisions)
    .join(runs, runs.c.key == decisions.c.run_key)
    .join(controllers, controllers.c.id == runs.c.controller_id)
)
FIND_DECISION = (
    sa.select(*_labelled(decisions, "decision_"), runs.c.id.label("run_id"))
    .join_from(decisions, runs, runs.c.key == decisions.c.run_key)
    .where(runs.c.id == sa.bindparam("run_id"), decisions.c.chunk == sa.bindparam("chunk"))
)
TRANSITIONS = DECISIONS.add_columns(*_labelled(_following, "following_")).join(
    _following,
    (_following.c.run_key == decisions.c.run_key) & (_following.c.chunk == decisions.c.chunk + 1),
)
"""A decision and the one that its chunk's report brought: those that have no such one are left out,
since the chunk that they are for is not reported."""

APPEND = sa.insert(decisions)
SET_USE = (
    sa.update(decisions)
    .where(
        decisions.c.run_key == sa.bindparam("of_run"),
        decisions.c.chunk == sa.bindparam("of_chunk"),
        decisions.c.use == sa.bindparam("was"),
    )
    .values(use=sa.bindparam("becomes"), checksum=decisions.c.checksum + sa.bindparam("change"))
)
COUNT_CHUNK = (
    sa.update(runs)
    .where(runs.c.key == sa.bindparam("of_run"))
    .values(
        reported_chunks=sa.bindparam("chunks"),
        updated_at=sa.bindparam("now"),
        abandoned_at=None,
        checksum=runs.c.checksum + sa.bindparam("change"),
    )
)
