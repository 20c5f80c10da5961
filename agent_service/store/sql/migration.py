"""Creation and migration of a store's tables."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from agent_service.store.sql.database import StoreError

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
FIRST = "0001"
"""The revision of stores from before Alembic, which have a table `store_format`."""


def migrate(engine: sa.Engine) -> None:
    """Create or migrate the tables, in one transaction; first copy an older SQLite file.

    Args:
        engine: its transactions must take the write lock when they begin.

    Raises:
        StoreError: the database has other tables, or was written by a newer release.
    """
    # Alembic's own lines are of no use to operators; ours say what happens.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    assert newest is not None
    with engine.begin() as connection:
        revision = _revision(connection)
        if revision == newest:
            return
        if revision is not None and revision not in {s.revision for s in scripts.walk_revisions()}:
            raise StoreError(
                f"its tables have version {revision}, newer than {newest}; update this release"
            )
        if revision is not None:
            _copy(engine.url, suffix=f".before-{newest}")
            log.info("store: migrating from version %s to %s", revision, newest)
        config.attributes["connection"] = connection
        if revision == FIRST:
            command.stamp(config, FIRST)
        command.upgrade(config, newest)


def _revision(connection: sa.Connection) -> str | None:
    """Return the tables' version; None if there are no tables."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if "alembic_version" in tables:
        return MigrationContext.configure(connection).get_current_revision()
    if "store_format" not in tables:
        raise StoreError("the database has other tables; give a new one")
    return FIRST


def _copy(url: sa.URL, *, suffix: str) -> None:
    """Copy the committed state of a SQLite database; operators back up other databases."""
    if url.get_backend_name() != "sqlite":
        return
    assert url.database is not None
    path = Path(url.database + suffix)
    with closing(sqlite3.connect(url.database)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    log.info("store: kept a copy of the old version as %s", path)
