"""Policy versions tell where they come from, and runs which version their start asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns, and fill in those of the versions that are there."""
    # SQLite adds no column without a value for the rows that are there.
    op.add_column(
        "policies", sa.Column("origin", sa.Text, nullable=False, server_default="imported")
    )
    op.add_column(
        "policies",
        sa.Column("learned_transitions", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.add_column("runs", sa.Column("requested_version", sa.BigInteger))
    connection = op.get_bind()
    connection.execute(sa.text("UPDATE policies SET origin = 'initial' WHERE version = 1"))
    # Until now only updates left statistics.
    has_statistics = "CAST(statistics AS TEXT) != '{}'"
    connection.execute(sa.text(f"UPDATE policies SET origin = 'learned' WHERE {has_statistics}"))
    learned = connection.execute(
        sa.text(
            "SELECT controller_id, learned_in AS version, count(*) AS transitions FROM decisions "
            "WHERE learned_in IS NOT NULL GROUP BY controller_id, learned_in"
        )
    ).mappings()
    for row in learned.all():
        connection.execute(
            sa.text(
                "UPDATE policies SET learned_transitions = :transitions "
                "WHERE controller_id = :controller_id AND version = :version"
            ),
            dict(row),
        )
