"""Runs can be abandoned, and are found by their last call; Alembic keeps the version."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the time of abandonment, and an index of the runs whose lease counts."""
    op.drop_table("store_format")
    op.add_column("runs", sa.Column("abandoned_at", sa.Double))
    op.create_index(
        "runs_on_lease",
        "runs",
        ["updated_at"],
        sqlite_where=sa.text("outcome IS NULL AND abandoned_at IS NULL"),
        postgresql_where=sa.text("outcome IS NULL AND abandoned_at IS NULL"),
    )
