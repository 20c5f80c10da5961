"""Damaged stores: opened clean up to a whole commit, or refused; never wrong data."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, ConstantSettings, PPOSettings, Reward
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.domain.runs import Use
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import call_of, raw_stub, report_of
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent

SMALL = PPOSettings(rollout_size=10, batch_size=5, n_epochs=1, net_arch=(4,))
PAGE = 4096
TABLES = ("controllers", "policies", "runs", "decisions")
CASES = 25
"""Damaged copies of one kind."""


@dataclass(frozen=True)
class Made:
    """A store as files, and all that it ever held: what was committed, after each commit."""

    database: bytes
    log: bytes
    commits: set[str]

    def put(self, folder: Path) -> Path:
        """Write the files as a killed service leaves them."""
        path = folder / "agent.db"
        path.write_bytes(self.database)
        (folder / "agent.db-wal").write_bytes(self.log)
        (folder / "agent.db-shm").unlink(missing_ok=True)
        return path


def content(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return repr([connection.execute(f"SELECT * FROM {t}").fetchall() for t in TABLES])


def make(path: Path, *, seed: int) -> Made:
    """Make a store whose first half is in the database and the second in its log only."""
    commits = set()

    def report(client: AgentClient, name: str, chunks: int) -> None:
        with client.run(name, labels={"kind": name}) as run:
            for chunk in range(1, chunks + 1):
                commits.add(content(path))
                losses = [3.0 / chunk, 2.0 / chunk, 1.0, 0.5]
                run.report_chunk(losses, training_score=0.5, validation_score=chunk / 50)
            commits.add(content(path))
        commits.add(content(path))

    with ServedAgent(path) as served, AgentClient(served.address) as client:
        commits.add(content(path))
        client.create_controller(spec("ppo", SMALL, reward=Reward.IMPROVEMENT, seed=seed))
        commits.add(content(path))
        client.create_controller(spec("fixed", ConstantSettings(values={"dropout": 0.3})))
        for half in range(2):
            for name in ("ppo", "fixed", "ppo"):
                report(client, name, 12)
                learn_once(served.store)
                commits.add(content(path))
            if half == 0:
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log = path.with_name(path.name + "-wal")
        return Made(path.read_bytes(), log.read_bytes(), commits)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "agent.db", seed=1)


def read_all(session: Session) -> None:
    for controller in session.list_controllers(after="", limit=10):
        session.usage(controller)
        for version in range(1, controller.policy_version + 1):
            assert session.find_policy(controller, version) is not None
        session.ready_transitions(controller, limit=1000)
    list(session.list_runs(controller="", state=None, labels={}, before=None, limit=1000))
    list(session.transitions(controller="", run_id="", after=0, limit=1000))
    session.decisions(after=0, limit=1000)


def outcome(path: Path, commits: set[str]) -> str:
    """Open a store, use all of it, and return what came of that; fail on wrong data."""
    url = f"sqlite:///{path}"
    try:
        with SqlStore(url) as store:
            store.read(read_all)
        verify_store(url)
    except AgentError as error:
        refusal = str(error)
    else:
        assert content(path) in commits, "what is read was never committed"
        return "clean"
    assert "\n" not in refusal
    return f"refused: {refusal}"


def flipped(data: bytes, rng: random.Random, places: range | list[int], most: int) -> bytes:
    damaged = bytearray(data)
    for place in rng.choices(places, k=rng.randint(1, most)):
        damaged[place] ^= rng.randrange(1, 256)
    return bytes(damaged)


def page_headers(made: Made) -> list[int]:
    """Return the places of the database's header, and of each page's header and cell pointers."""
    pages = range(0, len(made.database), PAGE)
    return [*range(100), *(page + i for page in pages for i in range(24))]


Damage = Callable[[Made, random.Random], tuple[bytes, bytes]]
DAMAGES: dict[str, Damage] = {
    "a log cut anywhere": lambda m, r: (m.database, m.log[: r.randrange(len(m.log))]),
    "flipped bytes in the log": lambda m, r: (m.database, flipped(m.log, r, range(len(m.log)), 4)),
    "flipped bytes in the log's first frames": lambda m, r: (
        m.database,
        flipped(m.log, r, range(3 * PAGE), 4),
    ),
    "a database cut anywhere": lambda m, r: (m.database[: r.randrange(len(m.database))], b""),
    "a database cut anywhere, and its log": lambda m, r: (
        m.database[: r.randrange(len(m.database))],
        m.log,
    ),
    "a flipped byte in the database": lambda m, r: (
        flipped(m.database, r, range(len(m.database)), 1),
        b"",
    ),
    "flipped bytes in the database, and its log": lambda m, r: (
        flipped(m.database, r, range(len(m.database)), 8),
        m.log,
    ),
    "flipped bytes in page headers": lambda m, r: (flipped(m.database, r, page_headers(m), 2), b""),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_or_harmless(made: Made, tmp_path: Path, kind: str) -> None:
    """All that is read was committed, whole, and verifies; or one line says what is wrong."""
    for seed in range(CASES):
        database, log = DAMAGES[kind](made, random.Random(seed))
        path = Made(database, log, set()).put(tmp_path)
        try:
            outcome(path, made.commits)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}") from error


def test_a_cut_log_loses_the_newest_commits_only(made: Made, tmp_path: Path) -> None:
    """Without a byte of its log the store is as it was when the log began; with it, as it ended."""
    path = Made(made.database, b"", set()).put(tmp_path)
    assert outcome(path, made.commits) == "clean"
    without = verify_store(f"sqlite:///{path}")

    path = made.put(tmp_path)
    assert outcome(path, made.commits) == "clean"
    assert verify_store(f"sqlite:///{path}") == 2 * without


NO_DATABASES: dict[str, Callable[[bytes], bytes]] = {
    "a wrong magic": lambda good: b"X" + good[1:],
    "noise": lambda good: random.Random(0).randbytes(len(good)),
    "a text": lambda good: b"not a store",
    "zeros": lambda good: bytes(len(good)),
}


@pytest.mark.parametrize("kind", NO_DATABASES)
def test_what_is_no_database_is_refused(made: Made, tmp_path: Path, kind: str) -> None:
    """In words that say so; a log beside it may hold the first page, which is then the good one."""
    database = NO_DATABASES[kind](made.database)
    path = Made(database, b"", set()).put(tmp_path)
    assert "not a database; stop the service and restore a copy" in outcome(path, made.commits)

    path = Made(database, made.log, set()).put(tmp_path)
    assert outcome(path, made.commits) == "clean" or kind != "a wrong magic"


def test_an_emptied_database_is_refused_and_its_log_kept(made: Made, tmp_path: Path) -> None:
    """SQLite would take it for a new one and delete the log beside it. Without a log it is new."""
    path = Made(b"", made.log, set()).put(tmp_path)
    assert "agent.db is empty" in outcome(path, made.commits)
    assert path.with_name("agent.db-wal").read_bytes() == made.log

    path = Made(b"", b"", set()).put(tmp_path)
    with SqlStore(f"sqlite:///{path}") as store:
        assert store.read(lambda session: session.decisions(after=0, limit=9)) == []


def test_a_schema_that_is_no_text_is_refused(made: Made, tmp_path: Path) -> None:
    """SQLite's own words on it cannot be read either; there is one line all the same."""
    database = made.database.replace(b'CREATE TABLE "decisions', b'CREATE TABLE "deci\xa6ions', 1)
    path = Made(database, b"", set()).put(tmp_path)

    assert "refused: store sqlite:" in outcome(path, made.commits)


def test_the_log_of_another_store_gives_no_mixture(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite takes any log that lies beside: what comes of it is one of the two, or refused."""
    other = make(tmp_path_factory.mktemp("other") / "agent.db", seed=2)
    folder = tmp_path_factory.mktemp("mixed")
    for database, log in ((made, other), (other, made)):
        path = Made(database.database, log.log, set()).put(folder)
        outcome(path, made.commits | other.commits)


CHANGES = {
    "controllers": "UPDATE controllers SET policy_version = 1",
    "policies": "UPDATE policies SET data = (SELECT data FROM policies WHERE version = 2)",
    "runs": "UPDATE runs SET reported_chunks = 3",
    "decisions": "UPDATE decisions SET learned_in = 3 WHERE learned_in = 2",
}


@pytest.mark.parametrize("table", CHANGES)
def test_a_changed_row_is_named(made: Made, tmp_path: Path, table: str) -> None:
    """Whatever table it is in, what was changed behind the service's back is not used."""
    path = made.put(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(CHANGES[table]).rowcount > 0

    assert f"damaged: table {table}, row " in outcome(path, made.commits)


def test_an_update_does_not_hide_earlier_damage(made: Made, tmp_path: Path) -> None:
    """A damaged decision stays damaged when it is learned from."""
    path = made.put(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE decisions SET reward = 0.123 WHERE position = 3")
        (chunk, run_id) = connection.execute(
            "SELECT chunk, id FROM decisions JOIN runs ON key = run_key WHERE position = 3"
        ).fetchone()

    def use(session: Session) -> None:
        run = session.find_run(run_id)
        assert run is not None
        session.set_use(run, chunk, was=Use.LEARNED, use=Use.RECORDED)

    with SqlStore(f"sqlite:///{path}") as store:
        store.write(use).result()
        with pytest.raises(Unavailable, match="table decisions, row position 3,"):
            store.read(read_all)


def test_damage_that_is_met_while_serving_ends_the_call_only(tmp_path: Path) -> None:
    """The run whose decision is damaged is UNAVAILABLE with the row's name; others go on."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as served, AgentClient(served.address) as client:
        client.create_controller(spec())
        for name in ("damaged", "sound"):
            client.run("c", run_id=name)
    # Another process, which has nothing in memory: the first knew its runs and would go on.
    with ServedAgent(path) as served, raw_stub(served.address) as stub:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE decisions SET action = '{' WHERE position = 1")

        with pytest.raises(Unavailable, match="table decisions, row position 1, does not match"):
            call_of(stub, report_of("damaged"))
        call_of(stub, report_of("sound"))

        log = call_of(stub, pb.StreamTransitionsRequest())
        assert [answer.transition.run_id for answer in log] == ["sound"]


def test_a_structure_that_breaks_while_serving_is_told(tmp_path: Path) -> None:
    """A page overwritten under an open store: UNAVAILABLE, with what to do."""
    path = tmp_path / "agent.db"
    SqlStore(f"sqlite:///{path}").close()
    with SqlStore(f"sqlite:///{path}") as store:
        with path.open("r+b") as file:
            file.seek(PAGE)
            file.write(b"x" * (path.stat().st_size - PAGE))
        store._reading.dispose()  # connections keep pages that they read before

        for call in (store.read, lambda work: store.write(work).result()):
            with pytest.raises(Unavailable, match="malformed; stop the service and restore"):
                call(lambda session: session.find_controller("c"))
