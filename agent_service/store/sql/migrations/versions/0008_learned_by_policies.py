"""Policies count learned transitions, so controllers need not."""

from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

controllers = sa.table(
    "controllers", sa.column("id"), sa.column("archived_learned"), sa.column("checksum")
)


def upgrade() -> None:
    """Drop the column, and its part of the checksum of the rows that have it."""
    connection = op.get_bind()
    found = connection.execute(
        sa.select(controllers).where(controllers.c.archived_learned.is_not(None))
    )
    for row in found.all():
        part = crc32(repr(("archived_learned", row.archived_learned)).encode())
        connection.execute(
            sa.update(controllers)
            .where(controllers.c.id == row.id)
            .values(checksum=controllers.c.checksum - part)
        )
    op.drop_column("controllers", "archived_learned")
