"""A report changes as few pages as can be: no index that each one moves, no table of sequences."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Index what is settled and what is on lease, and let positions follow from the log itself."""
    op.drop_index("runs_on_lease", "runs")
    on_lease = sa.text("outcome IS NULL AND abandoned_at IS NULL")
    op.create_index(
        "runs_on_lease", "runs", ["key"], sqlite_where=on_lease, postgresql_where=on_lease
    )
    op.drop_index("decisions_by_use", "decisions")
    # Made anew without AUTOINCREMENT: rows are never deleted, so positions are never given twice.
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table(
            "decisions", recreate="always", table_kwargs={"sqlite_autoincrement": False}
        ):
            pass
    settled = sa.text("use != 'pending'")
    op.create_index(
        "decisions_by_use",
        "decisions",
        ["controller_id", "use", "position"],
        sqlite_where=settled,
        postgresql_where=settled,
    )
