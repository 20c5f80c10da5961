"""Statements built once: those of every report, and joins.

Building a statement costs more than running it: half of a report's time (measured). The columns of
joins are labelled with the prefixes that `rows` reads.
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
"""In TRANSITIONS: orders one run as its positions do, and is in the run's index."""
OF_CONTROLLER = (
    _following.c.controller_id + 0
    == (
        sa.select(controllers.c.id).where(controllers.c.name == sa.bindparam("of_name"))
    ).scalar_subquery()
)
"""In TRANSITIONS: one controller's. The sum prevents the use of an index by controller, with which
all of the controller's rows would be sorted for every page: the log is scanned by position."""

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
    # Repeated, so that the index can be used from either side: it has columns, not sums.
    & (decisions.c.chunk == _following.c.chunk - 1),
)
"""Decisions with the one that their chunk's report led to; a decision whose chunk is not yet
reported has none and is left out."""


class Statement:
    """A statement compiled to SQL, so that running it costs only what the driver costs.

    SQLAlchemy's execution took three quarters of a report's time. Values are passed as the database
    takes them, since no column type converts them. `senders` runs it.
    """

    def __init__(self, clause: sa.Insert | sa.Update) -> None:
        """Compile a statement; its parameters are bound in the order in which they appear."""
        self.sqlite = str(clause.compile(dialect=sqlite.dialect()))
        self.psycopg = self.sqlite.replace("?", "%s")


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
"""Changes nothing if the run is not in the state that the caller knows."""


def driver_of(connection: sa.Connection) -> Any:
    """Return the driver's connection under SQLAlchemy's."""
    return connection.connection.driver_connection
