"""Rows carry checksums; those from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column to each table."""
    for table in ("controllers", "policies", "runs", "decisions"):
        op.add_column(table, sa.Column("checksum", sa.BigInteger))
