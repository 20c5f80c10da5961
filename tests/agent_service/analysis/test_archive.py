"""The command that prunes, and the files that it leaves: the ordinary export, to the bit."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from agent_service.analysis.prune import Pruner, make_plan
from agent_service.app import verify_store
from agent_service.cli.main import cli
from agent_service.client import AgentClient, Mode
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import Trainings, in_both, in_store
from tests.given import ServedAgent

STORES = sorted((Path(__file__).parents[2] / "data" / "stores").glob("*.db"))


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def prune(store: SqlStore, folder: Path) -> None:
    pruner = Pruner(store, folder)
    with pruner.pruning():
        pruner.prune(make_plan(store, before=1e12), progress=lambda _count: None)


def test_its_files_are_the_ordinary_export(tmp_path: Path) -> None:
    """Field by field what `transitions` wrote before; whoever asks for a run is told the file."""
    path, folder = tmp_path / "agent.db", tmp_path / "archive"
    with SqlStore(f"sqlite:///{path}") as store:
        trainings = Trainings(store)
        trainings.create()
        trainings.train("r-applied")
        trainings.train("c", controller="constant")
        trainings.train("p", controller="ppo", mode=Mode.FROZEN)
        trainings.train("last")
    exported = tmp_path / "log"
    with ServedAgent(path) as served:
        at = ("--agent", served.address, "--format", "parquet", "--output")
        for name in ("random", "constant", "ppo"):
            command("transitions", "--controller", name, *at, f"{exported}-{name}")
    with SqlStore(f"sqlite:///{path}") as store:
        prune(store, folder)

    rows: dict[int, object] = {}
    for name in ("random", "constant", "ppo"):
        table = pyarrow.parquet.read_table(f"{exported}-{name}")
        rows |= {row["position"]: row for row in table.to_pylist() if row["run_id"] != "last"}
    files = sorted(folder.glob("*.parquet"))
    assert len(files) == 3
    assert {
        row["position"]: row
        for file in files
        for row in pyarrow.parquet.read_table(file).to_pylist()
    } == rows
    with ServedAgent(path) as served, AgentClient(served.address) as client:
        with pytest.raises(AgentError, match="'c' was pruned: it is in the archive file runs-"):
            client.schedule("c")
        assert [run.run_id for run in client.list_runs()] == ["last"]


def test_the_command_shows_first_and_then_does(tmp_path: Path) -> None:
    """The same table, by controller; what stays and why; and nothing is done for show."""
    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        trainings = Trainings(store)
        trainings.create()
        trainings.train("waits", controller="ppo")
        for name in ("a", "b", "last"):
            trainings.train(name)
    folder = tmp_path / "archive"
    words = ["prune", "--store", f"sqlite:///{tmp_path}/agent.db", "--older-than", "30d"]
    words += ["--archive", str(folder)]

    shown = command(*words, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert not folder.exists()
    done = command(*words)
    assert done.exit_code == 0, done.output
    again = command(*words)

    would, did, left = ([x.split() for x in r.stdout.splitlines()] for r in (shown, done, again))
    assert would[1][:3] == ["random", "2", "6"]
    assert would[2] == ["would", "go", "in", "all", *would[1][1:]]
    assert "old runs that stay: 1, waiting to be learned from" in shown.stdout
    assert did[1:3] == [would[1], ["went", "in", "all", *would[1][1:]]]
    assert did[-1][2:] == ["were", "added", "to", str(folder)]
    assert left[1] == ["went", "in", "all", "0", "0", "0"]


@pytest.mark.parametrize("old", STORES, ids=lambda path: path.stem)
def test_a_store_of_an_older_release_is_pruned(old: Path, tmp_path: Path) -> None:
    """Its rows have no checksums, and numbers in forms of their own; all are there."""
    path, folder = tmp_path / "agent.db", tmp_path / "archive"
    shutil.copy(old, path)
    decisions = verify_store(f"sqlite:///{path}")
    with SqlStore(f"sqlite:///{path}") as store:
        before = in_store(store)
        store.write(delete_controllers).result()
        prune(store, folder)

        assert in_both(store, folder) == before
    assert 0 < verify_store(f"sqlite:///{path}") < decisions


def delete_controllers(session: Session) -> None:
    for controller in session.list_controllers(after="", limit=100):
        session.delete_controller(controller, now=1.0)


def test_a_damaged_row_is_not_archived(tmp_path: Path) -> None:
    """It is named, and everything stays where it is."""
    path, folder = tmp_path / "agent.db", tmp_path / "archive"
    with SqlStore(f"sqlite:///{path}") as store:
        trainings = Trainings(store)
        trainings.create()
        for name in ("sound", "damaged", "last"):
            trainings.train(name)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE decisions SET reward = 0.5 WHERE position = 6")
        with pytest.raises(Unavailable, match="row position 6,"):
            prune(store, folder)

        assert [f.name for f in folder.iterdir()] == [".lock"]
        assert trainings.report("sound", 3).chunk == 4


def test_a_store_that_is_none_is_not_made(tmp_path: Path) -> None:
    """One line, and nothing is there afterwards."""
    url = f"sqlite:///{tmp_path}/mistyped.db"
    words = ("prune", "--store", url, "--older-than", "1d", "--archive", str(tmp_path / "archive"))

    assert "there is no file" in str(command(*words).exception)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mistyped.db").touch()
    assert "is empty" in str(command(*words).exception)
    assert (tmp_path / "mistyped.db").read_bytes() == b""
