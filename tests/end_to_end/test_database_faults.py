"""A database server that fails a service that runs: what is told, and how it goes on by itself."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agent_service.app import verify_store
from agent_service.client import AgentClient, RandomSettings, Run
from agent_service.domain.errors import Unavailable
from agent_service.store.journal import journal
from agent_service.store.rows.session import Session
from agent_service.store.sql import postgresql as on_server
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.end_to_end.disks import full_disk, small_disk
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent
from tests.postgresql import PostgresServer, give_to_server, running_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner, so that a test takes seconds."""
    monkeypatch.setattr(on_server, "WRITER_SECONDS", 1)
    monkeypatch.setattr(on_server, "READING_SECONDS", 1)
    monkeypatch.setattr(on_server, "LOCK_SECONDS", 0.25)
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.5)


@contextmanager
def reporting(url: str) -> Iterator[tuple[ServedAgent, AgentClient, Run]]:
    """A service on a database, and a run that was answered. Its caller has no patience."""
    with ServedAgent(url) as served, AgentClient(served.address, budget_seconds=0) as client:
        client.create_controller(spec("c", RandomSettings()))
        run = client.run("c", run_id="r", when_away=None)
        report(run)
        yield served, client, run


def report(run: Run) -> None:
    run.report_chunk([2.0, 1.5, 1.25, 1.0], training_score=0.5, validation_score=0.5)


def report_often(run: Run) -> None:
    for _ in range(1000):
        report(run)


def is_answered(run: Run) -> bool:
    with suppress(Unavailable):
        report(run)
        return True
    return False


def assert_goes_on(served: ServedAgent, client: AgentClient, run: Run) -> None:
    """The next reports are answered; what was acknowledged is there, and nothing else."""
    for _ in range(3):
        report(run)
    assert client.get_run("r").reported_chunks == run.action.chunk_index - 1
    assert verify_store(served.url) == run.action.chunk_index


def test_a_disk_that_is_full(postgresql: PostgresServer) -> None:
    """The server says so, its service says what it says, and both go on when there is room."""
    with TemporaryDirectory(prefix="small-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "disk"
        with small_disk(folder, mebibytes=24) as is_mounted:
            if not is_mounted:
                pytest.skip("no disk can be mounted here: run as root")
            give_to_server(folder)
            url = postgresql.new_database(folder=folder)
            with reporting(url) as (served, client, run):
                with full_disk(folder), pytest.raises(Unavailable, match="No space left"):
                    report_often(run)
                assert_goes_on(served, client, run)
            postgresql.drop(url)


@contextmanager
def stopped(postgresql: PostgresServer, url: str, query: str) -> Iterator[None]:
    """Stop the server's process of the one session that ran a statement last."""
    with postgresql.connect(url) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND query LIKE %s "
            "AND datname = current_database() AND pid <> pg_backend_pid() "
            "ORDER BY state_change DESC LIMIT 1",
            [query],
        ).fetchall()
    ((pid,),) = found
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_session_that_hangs_is_given_up(postgresql: PostgresServer) -> None:
    """The writer's, whose machine answers for it: one call fails, the next is served."""
    url = postgresql.new_database()
    with reporting(url) as (served, client, run), stopped(postgresql, url, "COMMIT"):
        with pytest.raises(Unavailable, match="did not answer in 1 s"):
            report(run)
        assert_goes_on(served, client, run)


def test_a_session_that_hangs_while_it_is_idle_fails_no_reader(postgresql: PostgresServer) -> None:
    """A reader's is tried before it is used, and another one takes its place."""
    url = postgresql.new_database()
    with reporting(url) as (served, client, run):
        client.get_run("r")
        with stopped(postgresql, url, "ROLLBACK"):
            assert client.get_run("r").reported_chunks == 1
            assert_goes_on(served, client, run)


def test_a_turn_that_another_one_keeps(postgresql: PostgresServer) -> None:
    """Calls that write are told so in time, when to come again too; others are served meanwhile."""
    url = postgresql.new_database()
    with reporting(url) as (served, client, run):
        with postgresql.connect(url) as other, other.transaction():
            other.execute(f"SELECT pg_advisory_xact_lock({on_server.WRITERS})")
            failing = threading.Thread(target=lambda: refused(run))
            failing.start()
            assert client.get_run("r").reported_chunks == 1
            failing.join()
            again = pb.ReportChunkRequest(run_id="r", chunk_index=1, losses=[1.0] * 4)
            again.scores.training, again.scores.validation = 0.5, 0.5
            with pytest.raises(grpc.RpcError) as caught:
                client._stub.ReportChunk(again)
            assert seconds_to_wait(caught.value) > 0
        assert_goes_on(served, client, run)


def refused(run: Run) -> None:
    with pytest.raises(Unavailable, match="the store is locked"):
        report(run)


def seconds_to_wait(error: Any) -> float:
    info = error_details_pb2.RetryInfo()
    (detail,) = rpc_status.from_call(error).details
    assert detail.Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())


def test_a_replica_that_hangs_in_its_turn_loses_it(postgresql: PostgresServer) -> None:
    """The server ends its session; what it did is undone, and the others go on."""
    url = postgresql.new_database()
    with reporting(url) as (served, client, run), SqlStore(url) as other:
        is_in_turn, may_go_on = threading.Event(), threading.Event()

        def hang(session: Session) -> None:
            session.next_position()
            is_in_turn.set()
            assert may_go_on.wait(60)
            list(session.list_controllers(after="", limit=1))

        hanging: list[BaseException | None] = []
        thread = threading.Thread(target=lambda: hanging.append(other.write(hang).exception()))
        thread.start()
        assert is_in_turn.wait(60)

        wait_for(lambda: is_answered(run))
        may_go_on.set()
        thread.join()
        assert isinstance(hanging[0], Unavailable)
        assert_goes_on(served, client, run)


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server of a test's own, with room for few sessions."""
    with TemporaryDirectory(prefix="postgresql-") as parent:
        Path(parent).chmod(0o755)
        with running_server(Path(parent) / "server", connections=12) as server:
            yield server


def test_a_server_that_takes_no_more_sessions(own: PostgresServer) -> None:
    """A service that lost its own cannot get another: it says so, and has one when it can."""
    with reporting(url := own.new_database()) as (served, client, run):
        with ExitStack() as taken:
            assert own.kill_sessions() > 0
            wait_for(lambda: own.kill_sessions() == 0)
            take_all(taken, own, url)
            with pytest.raises(Unavailable, match="server"):
                report(run)  # by the session that is no more
            with pytest.raises(Unavailable, match="too many clients"):
                report(run)
            with pytest.raises(Unavailable, match="too many clients"):
                client.get_run("r")
        wait_for(lambda: own.sessions() < 4)
        assert_goes_on(served, client, run)


def test_a_server_that_crashes(own: PostgresServer) -> None:
    """It is told, and when the server has recovered, all that was acknowledged is there."""
    with reporting(own.new_database()) as (served, client, run):
        own.stop("immediate")
        with pytest.raises(Unavailable, match="check the database server"):
            report_often(run)
        own.start()
        wait_for(lambda: is_answered(run))
        assert_goes_on(served, client, run)


def take_all(taken: ExitStack, server: PostgresServer, url: str) -> None:
    """Open sessions until the server refuses one."""
    for _ in range(20):
        try:
            taken.enter_context(server.connect(url))
        except psycopg.OperationalError:
            return
    raise AssertionError("the server takes any number of sessions")
