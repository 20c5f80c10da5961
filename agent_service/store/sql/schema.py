"""The tables: controllers, their policy versions, runs, and the decision log.

The log is append-only: only a decision's use by learning changes, until its run is archived and its
rows are deleted (`retention`). Arrays are stored as little-endian float64, so they are read back
bit for bit. The tables are created and changed by `migrations/`; a test compares the two.
`checksums` says what `checksum` covers.
"""

from __future__ import annotations

import sqlalchemy as sa

from agent_service.domain.runs import RunState

metadata = sa.MetaData()

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""Type of keys that the database assigns; SQLite's Integer has 64 bits."""

controllers = sa.Table(
    "controllers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("policy_version", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("deleted_at", sa.Double),
    sa.Column("checksum", sa.BigInteger),
    sa.Column("archived_recorded", sa.BigInteger),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("controller_id", sa.ForeignKey(controllers.c.id), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("statistics", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("learned_transitions", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.BigInteger),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("key", BIG, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("controller_id", sa.ForeignKey(controllers.c.id), nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("requested_mode", sa.Text),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("planned_chunks", sa.BigInteger),
    sa.Column("pinned_version", sa.BigInteger),
    sa.Column("reported_chunks", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("final_score", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("abandoned_at", sa.Double),
    sa.Column("requested_version", sa.BigInteger),
    sa.Column("checksum", sa.BigInteger),
    sa.Column("archive", sa.Text),
    sa.Column("problem", sa.JSON(none_as_null=True)),
    sa.Index("runs_by_controller", "controller_id", "key"),
)
is_archived = runs.c.archive.is_not(None)
"""In queries: runs whose decisions are in an archive file and are deleted, or about to be.

The runs' own rows stay, so that neither ids nor keys are reused."""
sa.Index(
    "runs_by_archive",
    runs.c.archive,
    runs.c.key,
    sqlite_where=is_archived,
    postgresql_where=is_archived,
)
run_state = sa.case(
    (runs.c.outcome.is_not(None), RunState.FINISHED.value),
    (runs.c.abandoned_at.is_not(None), RunState.ABANDONED.value),
    else_=RunState.ACTIVE.value,
)
"""In queries: the run's state."""
is_on_lease = runs.c.outcome.is_(None) & runs.c.abandoned_at.is_(None)
"""In queries: active runs, in the form that uses the index."""
# By key, which reports never change: with an index by time, each report would write two more pages.
sa.Index("runs_on_lease", runs.c.key, sqlite_where=is_on_lease, postgresql_where=is_on_lease)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("position", BIG, primary_key=True, autoincrement=False),
    sa.Column("run_key", sa.ForeignKey(runs.c.key), nullable=False),
    sa.Column("controller_id", sa.ForeignKey(controllers.c.id), nullable=False),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
    sa.Column("context", sa.LargeBinary),
    sa.Column("training_score", sa.Double),
    sa.Column("validation_score", sa.Double),
    sa.Column("given_reward", sa.Double),
    sa.Column("reward", sa.Double),
    sa.Column("applied", sa.JSON(none_as_null=True)),
    sa.Column("sample", sa.LargeBinary, nullable=False),
    sa.Column("log_probability", sa.Double, nullable=False),
    sa.Column("explored", sa.Boolean, nullable=False),
    sa.Column("action", sa.JSON, nullable=False),
    sa.Column("policy_version", sa.BigInteger, nullable=False),
    sa.Column("use", sa.Text, nullable=False),
    sa.Column("learned_in", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("checksum", sa.BigInteger),
    sa.UniqueConstraint("run_key", "chunk"),
)
is_settled = decisions.c.use != "pending"
"""In queries: any other use, in the form that uses the index."""
sa.Index(
    "decisions_by_use",
    decisions.c.controller_id,
    decisions.c.use,
    decisions.c.position,
    sqlite_where=is_settled,
    postgresql_where=is_settled,
)
