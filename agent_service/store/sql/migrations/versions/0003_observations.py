"""Policies may see more than losses: what they saw beside these, and the plan of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both; a decision from before saw losses alone, and no run from before had a plan."""
    op.add_column("runs", sa.Column("planned_chunks", sa.BigInteger))
    op.add_column("decisions", sa.Column("context", sa.LargeBinary))
