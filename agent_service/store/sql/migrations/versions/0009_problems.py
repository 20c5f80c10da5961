"""Runs say what their training is about; those from before did not."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column: the known fields of a problem by name, or NULL."""
    op.add_column("runs", sa.Column("problem", sa.JSON(none_as_null=True)))
