"""The first tables: controllers, policies, runs, and the decision log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables as they were first."""
    op.create_table("store_format", sa.Column("version", sa.Integer, nullable=False))
    op.create_table(
        "controllers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("deleted_at", sa.Double),
    )
    op.create_table(
        "policies",
        sa.Column("controller_id", sa.Integer, sa.ForeignKey("controllers.id"), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("statistics", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("key", BIG, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("controller_id", sa.Integer, sa.ForeignKey("controllers.id"), nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("requested_mode", sa.Text),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("pinned_version", sa.BigInteger),
        sa.Column("reported_chunks", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("final_score", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_index("runs_by_controller", "runs", ["controller_id", "key"])
    op.create_table(
        "decisions",
        sa.Column("position", BIG, primary_key=True),
        sa.Column("run_key", BIG, sa.ForeignKey("runs.key"), nullable=False),
        sa.Column("controller_id", sa.Integer, sa.ForeignKey("controllers.id"), nullable=False),
        sa.Column("chunk", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
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
        sa.UniqueConstraint("run_key", "chunk"),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_by_use", "decisions", ["controller_id", "use", "position"])
