"""Stores of every released version are opened, verified and continued; newer ones are refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.domain.store import Origin, PolicyEntry
from agent_service.store.rows.session import Session
from agent_service.store.sql.database import StoreError
from agent_service.store.sql.schema import metadata
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import call_of, raw_stub, report_of, train
from tests.given import ServedAgent

STORES = sorted((Path(__file__).parents[2] / "data" / "stores").glob("*.db"))
WITHOUT_ORIGINS = [path for path in STORES if path.stem < "0005"]


def schema(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: sql for name, sql in rows if not name.startswith("sqlite_")}


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {t: connection.execute(f"PRAGMA table_info({t})").fetchall() for t in schema(path)}


def test_the_tables_are_those_of_the_code(store_url: str) -> None:
    """The migrations make the schema of `schema.py`, by Alembic's own comparison."""
    with SqlStore(store_url) as store, store._reading.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("old", STORES, ids=lambda path: path.stem)
def test_an_older_store_is_opened_verified_and_continued(old: Path, tmp_path: Path) -> None:
    """Nothing of its log is lost, its live runs go on, and a copy of it as it was stays beside."""
    path = tmp_path / "agent.db"
    shutil.copy(old, path)
    with closing(sqlite3.connect(old)) as connection:
        (decisions,) = connection.execute("SELECT count(*) FROM decisions").fetchone()

    with ServedAgent(path) as served, AgentClient(served.address) as client:
        live = client.get_run("live")
        assert not live.HasField("problem"), "no release before told it"
        with raw_stub(served.address) as stub:
            again = pb.StartRunRequest(
                controller=live.controller,
                run_id="live",
                labels=live.labels,
                planned_chunks=live.planned_chunks,
                problem=pb.Problem(classes=7),
            )
            assert call_of(stub, again).action.chunk_index == 1, "a newer client knows more"
            call_of(stub, report_of("live", live.reported_chunks + 1))
        train(client, "ppo")
        assert client.get_run("ppo-0").labels == {"seed": "0"}

    assert verify_store(f"sqlite:///{path}") == decisions + 3
    copies = list(tmp_path.glob("agent.db.before-*"))
    assert len(copies) == (schema(old) != schema(path)), "the newest version is not migrated"
    for copy in copies:
        assert schema(copy) == schema(old)
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (decisions,)


@pytest.mark.parametrize("old", STORES, ids=lambda path: path.stem)
def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    """Column by column, index by index."""
    migrated, new = tmp_path / "migrated.db", tmp_path / "new.db"
    shutil.copy(old, migrated)
    for path in (migrated, new):
        SqlStore(f"sqlite:///{path}").close()

    assert columns(migrated) == columns(new)
    assert not list(tmp_path.glob("new.db.before-*"))


@pytest.mark.parametrize("old", WITHOUT_ORIGINS, ids=lambda path: path.stem)
def test_older_policy_versions_tell_where_they_come_from(old: Path, tmp_path: Path) -> None:
    """The first is initial, those with statistics were learned, from what the log says."""
    path = tmp_path / "agent.db"
    shutil.copy(old, path)

    with SqlStore(f"sqlite:///{path}") as store:
        entries = store.read(all_versions)

    learned = [entry for entry in entries if entry.origin is Origin.LEARNED]
    assert learned
    assert all(entry.statistics and entry.learned_transitions for entry in learned)
    assert {entry.origin for entry in entries if not entry.statistics} == {Origin.INITIAL}
    assert sum(entry.learned_transitions for entry in entries) == learned_in_log(path)


def all_versions(session: Session) -> list[PolicyEntry]:
    return [
        entry
        for controller in session.list_controllers(after="", limit=100)
        for entry in session.list_policies(controller, before=None, limit=100)
    ]


def learned_in_log(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT count(*) FROM decisions WHERE use = 'learned'"
        return int(connection.execute(query).fetchone()[0])


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the middle, the older store is as it was, and the next opening migrates it."""
    path = tmp_path / "agent.db"
    shutil.copy(STORES[0], path)

    def fails(*_args: object, **_options: object) -> None:
        raise StoreError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", fails)
        with pytest.raises(StoreError, match="cut"):
            SqlStore(f"sqlite:///{path}")
    assert schema(path) == schema(STORES[0])

    SqlStore(f"sqlite:///{path}").close()
    assert schema(path) != schema(STORES[0])
