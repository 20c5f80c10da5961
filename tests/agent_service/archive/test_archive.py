"""The archive as others read it: verified, through the commands, and by what knows only Parquet."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from agent_service.analysis.archive.folder import Archive
from agent_service.analysis.archive.form import VERSION_KEY
from agent_service.analysis.archive.prune import Pruner, make_plan
from agent_service.app import verify_store
from agent_service.cli.main import cli
from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.domain.runs import Mode
from agent_service.domain.store import Session
from agent_service.store.store import SqlStore
from tests.agent_service.archive.trainings import LOSSES, Trainings
from tests.given import ServedAgent

STORES = sorted((Path(__file__).parents[2] / "data" / "stores").glob("*.db"))


@dataclass(frozen=True)
class Pruned:
    """A store and its archive, and the whole log as the command told it before."""

    store: Path
    folder: Path
    log: list[str]

    @property
    def url(self) -> str:
        return f"sqlite:///{self.store}"

    def copy(self, folder: Path) -> "Pruned":
        shutil.copy(self.store, folder / "agent.db")
        shutil.copytree(self.folder, folder / "archive")
        return Pruned(folder / "agent.db", folder / "archive", self.log)


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def log_of(store: Path, *words: str) -> list[str]:
    """Return the log as `transitions` writes it."""
    with ServedAgent(store) as served:
        result = command("transitions", "--agent", served.address, *words)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    folder = tmp_path_factory.mktemp("pruned")
    path = folder / "agent.db"
    with SqlStore(f"sqlite:///{path}") as store:
        trainings = Trainings(store)
        trainings.create()
        for number in range(3):
            trainings.train(f"r{number}-applied")
            trainings.train(f"c{number}", controller="constant")
            trainings.train(f"p{number}", controller="ppo", mode=Mode.FROZEN)
    log = log_of(path)
    with SqlStore(f"sqlite:///{path}") as store:
        archive = Archive(folder / "archive")
        with archive.pruning():
            Pruner(store, archive, per_file=13).prune(
                make_plan(store, before=1e12), told=lambda _count: None
            )
    return Pruned(path, folder / "archive", log)


def test_the_log_with_the_archive_is_the_log_that_was(pruned: Pruned) -> None:
    """Every field of every transition, as if nothing had been pruned, run by run."""
    log = log_of(pruned.store, "--archive", str(pruned.folder))

    assert sorted(log) == sorted(pruned.log)
    assert len(log_of(pruned.store)) == 3


def test_one_run_and_one_controller_are_read_alone(pruned: Pruned) -> None:
    """From the archive where they are there; `--after` counts as in the store."""
    for option, name, field in (("--run", "r1-applied", "run_id"), ("--controller", "ppo", "")):
        words = (option, name, "--archive", str(pruned.folder))
        wanted = [line for line in pruned.log if json.loads(line)[field or "controller"] == name]
        assert log_of(pruned.store, *words) == wanted
        after = str(json.loads(wanted[0])["position"])
        assert log_of(pruned.store, *words, "--after", after) == wanted[1:]


def test_what_compares_decisions_reads_the_archive(pruned: Pruned) -> None:
    """`agreement` of a pruned run, and `replay` over all that there ever were."""
    with ServedAgent(pruned.store) as served:
        at = ("--agent", served.address, "--archive", str(pruned.folder))
        agreement = command("agreement", "r1-applied", *at, "--format", "json")
        replay = command("replay", "ppo", "--policy", "1", *at)

    assert agreement.exit_code == 0, agreement.output
    assert [json.loads(line)["applied"]["noise"] for line in agreement.stdout.splitlines()] == (
        [0.5] * 3
    )
    assert "dropout: mean difference 0 over 9 decisions" in replay.stdout


def test_it_is_plain_parquet(pruned: Pruned) -> None:
    """A row for each decision; reward and scores are those that the row's own action earned."""
    table = pyarrow.parquet.read_table(pruned.folder)
    rows = [row for row in table.to_pylist() if row["run_id"] == "r1-applied"]

    assert [row["chunk"] for row in rows] == [1, 2, 3, 4]
    assert [row["validation_score"] for row in rows] == [1 / 50, 2 / 50, 3 / 50, None]
    assert [row["reward"] for row in rows] == [s / 50 - 0.5 for s in (1, 2, 3)] + [None]
    assert [row["state"] for row in rows] == [[0.0] * 4, *[LOSSES.tolist()] * 3]
    assert [dict(row["applied"] or ()) for row in rows] == [
        *[{"noise": 0.5, "dropout": 0.0}] * 3,
        {},
    ]
    assert {row["controller_name"] for row in rows} == {"random"}
    assert dict(rows[0]["run_labels"]) == {"seed": "r1-applied"}
    assert len({(row["run_id"], row["chunk"]) for row in table.to_pylist()}) == 32


def test_it_verifies_with_its_store(pruned: Pruned) -> None:
    """All that was ever decided; without the archive, what the store has."""
    assert verify_store(pruned.url, pruned.folder) == 36
    assert verify_store(pruned.url) == 4


def first(pruned: Pruned) -> Path:
    return min(pruned.folder.glob("*.parquet"))


def changed(pruned: Pruned, column: str, value: object) -> None:
    """Change a column of a file as one would who knows Parquet."""
    table = pyarrow.parquet.read_table(first(pruned))
    place = table.schema.get_field_index(column)
    values = pyarrow.array([value] * len(table), table.schema.field(place).type)
    table = table.set_column(place, table.schema.field(place), values)
    pyarrow.parquet.write_table(table, first(pruned))


def flipped(pruned: Pruned) -> None:
    data = bytearray(first(pruned).read_bytes())
    data[len(data) // 8] ^= 0xFF
    first(pruned).write_bytes(data)


def of_newer_release(pruned: Pruned) -> None:
    table = pyarrow.parquet.read_table(first(pruned))
    pyarrow.parquet.write_table(table.replace_schema_metadata({VERSION_KEY: b"2"}), first(pruned))


DAMAGES: dict[str, tuple[Callable[[Pruned], object], str]] = {
    "a file is missing": (lambda p: first(p).unlink(), "runs were pruned into it, 0 are there"),
    "a byte is another": (flipped, "restore a copy of it"),
    "a file is cut": (lambda p: first(p).write_bytes(first(p).read_bytes()[:999]), "restore a"),
    "a reward is another": (lambda p: changed(p, "reward", 0.25), "is not what was written"),
    "a learned version is another": (lambda p: changed(p, "learned_in", 7), "not what was written"),
    "the run's end is another": (lambda p: changed(p, "run_outcome", "diverged"), "table runs"),
    "a file is no archive": (
        lambda p: pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), first(p)),
        "is no archive of runs",
    ),
    "a file is of a newer release": (of_newer_release, "update this release"),
    "a file is there twice": (
        lambda p: shutil.copy(first(p), p.folder / "runs-copy.parquet"),
        "was pruned into",
    ),
    "the folder is gone": (lambda p: shutil.rmtree(p.folder), "there is no archive"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_wrong_is_named(pruned: Pruned, tmp_path: Path, kind: str) -> None:
    """In one line; nothing that is missing or changed passes."""
    damage, says = DAMAGES[kind]
    copy = pruned.copy(tmp_path)
    damage(copy)

    with pytest.raises(AgentError, match=says) as caught:
        verify_store(copy.url, copy.folder)
    assert "\n" not in str(caught.value)


def test_an_archive_of_another_store_is_refused(pruned: Pruned, tmp_path: Path) -> None:
    """Its runs are not those that left this one, whatever their names."""
    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        trainings = Trainings(store)
        trainings.create()
        trainings.train("c0")

    with pytest.raises(AgentError, match="is of another store"):
        verify_store(f"sqlite:///{tmp_path}/agent.db", pruned.folder)


def test_the_command_shows_first_and_then_does(pruned: Pruned, tmp_path: Path) -> None:
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
    """Its rows have no checksums, and numbers in forms of their own; all of them verify."""
    path, folder = tmp_path / "agent.db", tmp_path / "archive"
    shutil.copy(old, path)
    decisions = verify_store(f"sqlite:///{path}")
    with SqlStore(f"sqlite:///{path}") as store, Archive(folder).pruning():
        store.write(delete_controllers).result()
        Pruner(store, Archive(folder)).prune(
            make_plan(store, before=1e12), told=lambda _count: None
        )

    assert verify_store(f"sqlite:///{path}", folder) == decisions
    assert verify_store(f"sqlite:///{path}") < decisions


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
        with Archive(folder).pruning(), pytest.raises(Unavailable, match="row position 6,"):
            Pruner(store, Archive(folder)).prune(
                make_plan(store, before=1e12), told=lambda _count: None
            )

        assert [f.name for f in folder.iterdir()] == [".lock"]
        assert trainings.report("sound", 3).chunk == 4


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y"])
def test_an_age_has_a_unit(tmp_path: Path, age: str) -> None:
    """Exit code 2, with an example."""
    result = command("prune", "--older-than", age, "--archive", str(tmp_path))

    assert result.exit_code == 2
    assert "30d" in result.stderr


def test_a_store_that_is_none_is_not_made(tmp_path: Path) -> None:
    """One line, and nothing is there afterwards."""
    url = f"sqlite:///{tmp_path}/mistyped.db"
    words = ("prune", "--store", url, "--older-than", "1d", "--archive", str(tmp_path / "archive"))

    assert "there is no file" in str(command(*words).exception)
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_of_a_pruned_run_says_where_it_is(pruned: Pruned) -> None:
    """A client is told the file's name."""
    with ServedAgent(pruned.store) as served, AgentClient(served.address) as client:
        with pytest.raises(AgentError, match="'c1' was pruned: it is in the archive file runs-"):
            client.schedule("c1")
        assert [run.run_id for run in client.list_runs()] == ["p2"]
