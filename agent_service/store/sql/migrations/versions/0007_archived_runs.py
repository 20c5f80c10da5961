"""Runs can be archived: their decisions leave the store, and what these were counted as stays."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns, and the index that finds the runs of an archive file."""
    op.add_column("controllers", sa.Column("archived_learned", sa.BigInteger))
    op.add_column("controllers", sa.Column("archived_recorded", sa.BigInteger))
    op.add_column("runs", sa.Column("archive", sa.Text))
    archived = sa.text("archive IS NOT NULL")
    op.create_index(
        "runs_by_archive",
        "runs",
        ["archive", "key"],
        sqlite_where=archived,
        postgresql_where=archived,
    )
