"""The store on real SQLite files: what it keeps, and what it refuses to open."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_service.domain.errors import InvalidArgument, NotFound
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import GivenReward, Scores
from agent_service.domain.runs import Choice, Decision, Mode, Run, StartRun, Use
from agent_service.domain.store import Durability, Origin, PolicyVersion
from agent_service.store.rows.session import Session
from agent_service.store.sql.database import StoreError
from agent_service.store.store import SqlStore
from tests.agent_service.specs import spec
from tests.postgresql import PostgresServer

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECISIONS = st.builds(
    Decision,
    position=st.just(0),
    run_id=st.just("r"),
    chunk=st.just(1),
    state=st.lists(FLOATS, min_size=1, max_size=8).map(np.array),
    context=st.lists(FLOATS, max_size=8).map(lambda numbers: np.array(numbers, np.float64)),
    feedback=st.none()
    | st.builds(Scores, training=st.floats(0, 1), validation=st.floats(0, 1))
    | st.builds(GivenReward, FLOATS),
    reward=st.none() | FLOATS,
    applied=st.none() | st.dictionaries(st.text("abc"), FLOATS),
    choice=st.builds(
        Choice,
        st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
        log_probability=FLOATS,
        explored=st.booleans(),
    ),
    values=st.dictionaries(st.text("abc"), FLOATS),
    policy_version=st.integers(0, 2**62),
    use=st.sampled_from(Use),
    learned_in=st.none() | st.integers(1, 2**62),
    created_at=st.floats(0, 1e10),
)


def start(
    session: Session,
    run_id: str,
    labels: dict[str, str] | None = None,
    problem: Problem | None = None,
) -> Run:
    controller = session.find_controller("c") or session.add_controller(
        spec(), mode=Mode.LEARNING, now=1.0
    )
    return session.add_run(
        StartRun(controller="c", run_id=run_id, labels=labels or {}, problem=problem),
        controller,
        mode=Mode.LEARNING,
        pinned_version=None,
        now=2.0,
    )


@pytest.mark.parametrize(
    "problem",
    [
        None,
        Problem(),
        Problem(classes=np.int64(7)),  # type: ignore[arg-type]
        Problem(
            classes=2,
            training_samples=10**15,
            batch_size=1,
            learning_rate=1e-3 / 3,
            parameters=3,
            sites=4,
        ),
    ],
)
def test_a_problem_is_read_as_it_was_written(store_url: str, problem: Problem | None) -> None:
    """By another process, too, with plain numbers whatever they were given as."""
    with SqlStore(store_url) as store:
        store.write(lambda session: start(session, "r", problem=problem)).result()
    with SqlStore(store_url) as store:
        run = store.read(lambda session: session.find_run("r"))

    assert run is not None
    assert run.problem == problem


@given(decision=DECISIONS)
@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_decision_is_read_as_it_was_written(store_url: str, decision: Decision) -> None:
    """Every field to the bit, subnormal and negative zero losses too."""

    def append(session: Session) -> tuple[Run, Decision]:
        run = session.find_run("r") or start(session, "r")
        chunk = 1
        while session.find_decision(run, chunk) is not None:
            chunk += 1
        written = replace(decision, chunk=chunk, position=session.next_position())
        session.append(run, written)
        return run, written

    with SqlStore(store_url) as store:
        run, written = store.write(append).result()
        read = store.read(lambda session: session.find_decision(run, written.chunk))

    assert read is not None
    assert read.state.tobytes() == decision.state.tobytes()
    assert read.context.tobytes() == decision.context.tobytes()
    assert replace(read, state=written.state, context=written.context) == written


def test_a_transaction_that_fails_leaves_nothing(store_url: str) -> None:
    """The next call finds nothing of a failed one."""

    def fails(session: Session) -> None:
        start(session, "r")
        raise NotFound("changed its mind")

    with SqlStore(store_url) as store:
        with pytest.raises(NotFound):
            store.write(fails).result()
        assert store.read(lambda session: session.find_run("r")) is None
        assert store.read(lambda session: session.find_controller("c")) is None


def test_a_store_is_found_again(store_url: str) -> None:
    """Opened again, with another durability, it holds what it held, policies to the byte."""
    policy = PolicyVersion(
        version=1,
        data=b"\0\xffdata",
        origin=Origin.LEARNED,
        learned_transitions=8,
        statistics={"a": 0.1},
        created_at=3.0,
    )
    with SqlStore(store_url, durability=Durability.PROCESS) as store:
        store.write(
            lambda session: session.add_policy(start(session, "s").controller, policy)
        ).result()

    with SqlStore(store_url) as store:
        run = store.read(lambda session: session.find_run("s"))
        assert run is not None
        assert run.controller.spec == spec()
        assert store.read(lambda session: session.find_policy(run.controller, 1)) == policy


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "UTF8"])
def test_text_is_text_whatever_the_database_takes_it_for(
    postgresql: PostgresServer, encoding: str
) -> None:
    """A server that was set up without a locale has databases without an encoding."""
    labels = {"who": "J\u00fcrgen \u4e2d"}
    with SqlStore(postgresql.new_database(encoding=encoding)) as store:
        store.write(lambda session: start(session, "r", labels)).result()
        run = store.read(lambda session: session.find_run("r"))
        assert run is not None
        assert run.labels == labels


def test_a_long_rollout_is_marked_whole(tmp_path: Path) -> None:
    """More transitions than a statement may have variables: 32,766 in SQLite."""
    count = 33_000

    def fill(session: Session) -> Run:
        run = start(session, "r")
        blank = Decision(
            position=0,
            run_id="r",
            chunk=1,
            state=np.zeros(1),
            context=np.zeros(0),
            feedback=Scores(training=0.5, validation=0.5),
            reward=0.0,
            applied=None,
            choice=Choice((0.0,), log_probability=0.0, explored=True),
            values={"dropout": 0.0},
            policy_version=1,
            use=Use.READY,
            learned_in=None,
            created_at=0.0,
        )
        for chunk in range(1, count + 2):
            session.append(run, replace(blank, chunk=chunk, position=session.next_position()))
        return run

    def learn(session: Session) -> int:
        run = session.find_run("r")
        assert run is not None
        ready = session.ready_transitions(run.controller, limit=count)
        session.mark_learned(ready, version=2)
        log = session.decisions(after=0, limit=2 * count)
        return sum(decision.learned_in == 2 for _run, decision in log)

    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        store.write(fill).result()
        assert store.write(learn).result() == count


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("agent.db", "'agent.db' is not a URL; write sqlite:///agent.db"),
        ("postgresql//a:hush@db/x", r"cannot be parsed; give sqlite:///PATH(?!.*hush)"),
        ("postgresql+psycopg://a@db:port/x", "cannot be parsed"),
        ("postgresql+psycopg://db/x?password=hush", r"by --store-password, (?!.*hush)"),
        ("mysql://host/x", "give sqlite:///PATH or postgresql"),
        ("postgresql+asyncpg://host/x", r"write it as postgresql\+psycopg"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", r"me:\*\*\*@127.0.0.1:1/x.*refused"),
        ("sqlite://", "give a file"),
        ("sqlite:///:memory:", "give a file"),
        ("sqlite:////no/such/folder/agent.db", "unable to open"),
    ],
)
def test_a_wrong_url_is_refused(url: str, says: str) -> None:
    """The error says what a right one is."""
    with pytest.raises((InvalidArgument, StoreError), match=says):
        SqlStore(url)


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    """One with other tables, or of a newer release, keeps every byte."""
    other, newer = tmp_path / "other.db", tmp_path / "newer.db"
    SqlStore(f"sqlite:///{newer}").close()
    for path, statement, says in (
        (other, "CREATE TABLE mine (x)", "other tables"),
        (newer, "UPDATE alembic_version SET version_num = '9999'", "version 9999, newer"),
    ):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)
        before = path.read_bytes()

        with pytest.raises(StoreError, match=says):
            SqlStore(f"sqlite:///{path}")

        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        assert path.read_bytes()[100:] == before[100:]
