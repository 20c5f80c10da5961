"""The version of a store's tables: made new, brought up to date, or refused."""

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
"""The revision of stores from before Alembic, which carry a table `store_format`."""


def bring_up_to_date(engine: sa.Engine) -> None:
    """Make or migrate the tables, in one transaction; an older SQLite file is copied beside.

    Args:
        engine: its transactions must lock for writing from their beginning.

    Raises:
        StoreError: the database holds other tables, or is of a newer release.
    """
    # What it tells of itself is of no use to who runs a service; our own lines say what happens.
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
                f"its tables are of version {revision}, newer than {newest}; update this release"
            )
        if revision is not None:
            _copy(engine.url, suffix=f".before-{newest}")
            log.info("store: version %s is brought to %s", revision, newest)
        config.attributes["connection"] = connection
        if revision == FIRST:
            command.stamp(config, FIRST)
        command.upgrade(config, newest)


def _revision(connection: sa.Connection) -> str | None:
    """Return the tables' version; None where there are no tables."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if "alembic_version" in tables:
        return MigrationContext.configure(connection).get_current_revision()
    if "store_format" not in tables:
        raise StoreError("the database holds other tables; give a new one")
    return FIRST


def _copy(url: sa.URL, *, suffix: str) -> None:
    """Copy a SQLite database as it is committed now; other databases have backups of their own."""
    if url.get_backend_name() != "sqlite":
        return
    assert url.database is not None
    path = Path(url.database + suffix)
    with closing(sqlite3.connect(url.database)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    log.info("store: the older one is kept as %s", path)
