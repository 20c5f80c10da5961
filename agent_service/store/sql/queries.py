"""Statements that are made once: what every report needs, and what joins tables.

Making one anew costs more than running it: half of a report's time, when it was measured. Columns
of joins carry the prefix that `rows` reads them by.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from agent_service.store.sql.schema import controllers, decisions, runs


def _labelled(table: sa.FromClause, prefix: str) -> list[sa.Label[object]]:
    return [column.label(f"{prefix}{column.name}") for column in table.columns]


_following = decisions.alias("following")
_RUN = [*_labelled(runs, "run_"), *_labelled(controllers, "controller_")]

FOLLOWING_POSITION = _following.c.position
"""In TRANSITIONS: the position of the report that completed the transition."""
FOLLOWING_CHUNK = _following.c.chunk
"""In TRANSITIONS: orders one run as its positions do, and is what the run's index holds."""
OF_CONTROLLER = (
    _following.c.controller_id + 0
    == (
        sa.select(controllers.c.id).where(controllers.c.name == sa.bindparam("of_name"))
    ).scalar_subquery()
)
"""In TRANSITIONS: one controller's. A sum, since no index holds it: the log is walked by position,
where an index by controller would have all of the controller's rows sorted for every page."""

CONTROLLERS = sa.select(*_labelled(controllers, "controller_"))
RUNS = sa.select(*_RUN).join_from(runs, controllers, runs.c.controller_id == controllers.c.id)
FIND_RUN = RUNS.where(runs.c.id == sa.bindparam("run_id"))
DECISIONS = (
    sa.select(*_labelled(decisions, "decision_"), *_RUN)
    .select_from(decisions)
    .join(runs, runs.c.key == decisions.c.run_key)
    .join(controllers, controllers.c.id == runs.c.controller_id)
)
KEPT = runs.c.archive.is_(None)
"""In RUNS, DECISIONS and TRANSITIONS: runs that are not archived."""
RUNNING = DECISIONS.where(decisions.c.chunk == runs.c.reported_chunks + 1).add_columns(
    sa.select(sa.func.max(decisions.c.position)).scalar_subquery().label("last_position")
)
"""Runs with the decision that their child trains under, and the log's last position."""
APPENDED = (
    sa.select(
        decisions.c.position, controllers.c.name.label("controller"), runs.c.id.label("run_id")
    )
    .select_from(decisions)
    .join(runs, runs.c.key == decisions.c.run_key)
    .join(controllers, controllers.c.id == decisions.c.controller_id)
    .order_by(decisions.c.position)
)
LOGGED = sa.select(*_labelled(decisions, "decision_"), runs.c.id.label("run_id")).join_from(
    decisions, runs, runs.c.key == decisions.c.run_key
)
FIND_DECISION = LOGGED.where(
    runs.c.id == sa.bindparam("run_id"), decisions.c.chunk == sa.bindparam("chunk")
)
TRANSITIONS = DECISIONS.add_columns(*_labelled(_following, "following_")).join(
    _following,
    (_following.c.run_key == decisions.c.run_key)
    & (_following.c.chunk == decisions.c.chunk + 1)
    # The same again, since an index finds a column and not a sum: it is looked up from both sides.
    & (decisions.c.chunk == _following.c.chunk - 1),
)
"""A decision and the one that its chunk's report brought: those that have no such one are left out,
since the chunk that they are for is not reported."""


class Statement:
    """A statement in the driver's own words: running it costs what the driver costs.

    SQLAlchemy's own execution took three quarters of a report's time. Values are passed as the
    database takes them, since no type of a column is asked to convert them. `sending` runs it.
    """

    def __init__(self, clause: sa.Insert | sa.Update) -> None:
        """Take a statement, whose values are bound in the order in which they stand in it."""
        self.of_sqlite = str(clause.compile(dialect=sqlite.dialect()))
        self.of_psycopg = self.of_sqlite.replace("?", "%s")


APPEND = Statement(
    sa.insert(decisions).values({c: sa.bindparam(c.name) for c in decisions.columns})
)
SET_USE = Statement(
    sa.update(decisions)
    .values(use=sa.bindparam("becomes"), checksum=decisions.c.checksum + sa.bindparam("change"))
    .where(
        decisions.c.run_key == sa.bindparam("of_run"),
        decisions.c.chunk == sa.bindparam("of_chunk"),
        decisions.c.use == sa.bindparam("was"),
    )
)
COUNT_CHUNK = Statement(
    sa.update(runs)
    .values(
        reported_chunks=sa.bindparam("chunks"),
        updated_at=sa.bindparam("now"),
        checksum=runs.c.checksum + sa.bindparam("change"),
    )
    .where(
        runs.c.key == sa.bindparam("of_run"),
        runs.c.reported_chunks == sa.bindparam("before"),
        runs.c.outcome.is_(None),
        runs.c.abandoned_at.is_(None),
    )
)
"""Changes nothing where the run does not stand as the caller knows it."""


def driver_of(connection: sa.Connection) -> Any:
    """Return the driver's own connection under SQLAlchemy's."""
    return connection.connection.driver_connection
