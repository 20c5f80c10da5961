"""A store whose files are moved, deleted, replaced or cut under it; one that two services share."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, PPOSettings
from agent_service.domain.errors import Unavailable
from agent_service.store.sql.database import StoreError
from agent_service.store.sql.sqlite import LOG_BYTES
from agent_service.store.store import SqlStore
from tests.agent_service.calls import call_of, raw_stub, report_of
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent, of_sqlite

FAST = PPOSettings(rollout_size=32, batch_size=16, n_epochs=1)


def files(store: Path) -> list[Path]:
    return [store.with_name(f"{store.name}{end}") for end in ("", "-wal", "-shm")]


def begin(client: AgentClient) -> None:
    """Start run `r` of a controller."""
    client.create_controller(spec())
    client.run("c", run_id="r")


def report(agent: ServedAgent | AgentProcess, chunk: int, *, of: str = "r") -> None:
    """Report by one call, which raises where a run would hold its values and go on."""
    with raw_stub(agent.address) as stub:
        call_of(stub, report_of(of, chunk))


def back_up(store: Path) -> Path:
    backup = store.with_name("backup.db")
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    return backup


def delete_all(store: Path) -> None:
    for file in files(store):
        file.unlink()


def cut(store: Path) -> None:
    os.truncate(store, 4096)


def overwrite(store: Path) -> None:
    shutil.copy(store.with_name("backup.db"), store)
    os.truncate(store, store.stat().st_size - 4096)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "moved": (lambda store: store.rename(store.with_name("moved.db")), "put that file back"),
    "replaced": (lambda store: store.with_name("backup.db").rename(store), "restart the service"),
    "deleted": (delete_all, "moved, deleted or replaced"),
    "cut": (cut, "restore a copy only if that fails"),
    "overwritten": (overwrite, "restore a copy only if that fails"),
    "without its log": (lambda store: files(store)[1].unlink(), "restart the service"),
    "without its index": (lambda store: files(store)[2].unlink(), "restart the service"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_done_to_the_files_is_told_by_the_next_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """Writes and reads are UNAVAILABLE and say what to do, the log once; no file is made anew."""
    path = tmp_path / "agent.db"
    do, remedy = FAULTS[fault]
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        begin(client)
        report(agent, 1)
        back_up(path)
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint")
        report(agent, 2)
        do(path)
        there = [file.exists() for file in files(path)]

        for call in (
            lambda: report(agent, 3),
            lambda: client.get_run("r"),
            lambda: report(agent, 3),
        ):
            with pytest.raises(Unavailable, match=remedy):
                call()

        assert [file.exists() for file in files(path)] == there
    assert sum(remedy in record.message for record in caplog.records) == 1


def test_a_file_that_is_put_back_is_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was acknowledged is in it, and it is said that it is back."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        begin(client)
        report(agent, 1)
        path.rename(tmp_path / "moved.db")
        with pytest.raises(Unavailable):
            report(agent, 2)
        with caplog.at_level("INFO"):
            (tmp_path / "moved.db").rename(path)
            report(agent, 2)
        assert client.get_run("r").reported_chunks == 2
    assert any("is back" in record.message for record in caplog.records)
    assert verify_store(agent.url) == 3


def test_a_store_that_was_vacuumed_is_not_called_damaged(tmp_path: Path) -> None:
    """It is smaller, but whole: the call names the command that says so, and it is served again."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        begin(client)
        with closing(sqlite3.connect(path)) as other:
            other.executescript(
                "CREATE TABLE waste AS SELECT zeroblob(100000); PRAGMA wal_checkpoint(TRUNCATE)"
            )
            report(agent, 1)
            other.executescript("DROP TABLE waste; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")

        with pytest.raises(Unavailable, match=f"`agent-service verify --store {agent.url}`"):
            report(agent, 2)

    assert verify_store(agent.url) == 3
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        report(agent, 2)


@pytest.mark.parametrize("end", ["-wal", "-shm", "moved"])
def test_what_was_acknowledged_is_in_the_file_wherever_it_is(tmp_path: Path, end: str) -> None:
    """Also what stood in the log alone, which the next connection does not find."""
    path, found = tmp_path / "agent.db", tmp_path / "found.db"
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        begin(client)
        for chunk in (1, 2, 3):
            report(agent, chunk)
        if end == "moved":
            path.rename(found)
        else:
            path.with_name(f"agent.db{end}").unlink()
        with pytest.raises(Unavailable):
            report(agent, 4)
        shutil.copy(found if end == "moved" else path, tmp_path / "alone.db")

    assert verify_store(f"sqlite:///{tmp_path / 'alone.db'}") >= 4


def test_a_backup_put_in_its_place_is_served_as_it_is(tmp_path: Path) -> None:
    """The log that the file before it left is not taken for its own."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as agent, AgentClient(agent.address, budget_seconds=0) as client:
        begin(client)
        backup = back_up(path)
        report(agent, 1)
        backup.rename(path)
        with pytest.raises(Unavailable):
            report(agent, 2)
    with ServedAgent(path) as agent, AgentClient(agent.address) as client:
        assert client.get_run("r").reported_chunks == 0


def test_a_log_without_its_store_is_not_thrown_away(tmp_path: Path) -> None:
    """As where the file was moved while nobody served it; SQLite would begin an empty one."""
    path = tmp_path / "agent.db"
    path.with_name("agent.db-wal").write_bytes(b"pages")

    with pytest.raises(StoreError, match=r"is missing, .*-wal is not"):
        SqlStore(f"sqlite:///{path}")

    assert not path.exists()


def test_the_learner_makes_no_store_in_place_of_one_that_was_deleted(tmp_path: Path) -> None:
    """It waits, as the service does; started anew meanwhile, it says that there is no file."""
    agent = AgentProcess(tmp_path / "agent.db")
    agent.log = tmp_path / "log"
    with agent, AgentClient(agent.address, budget_seconds=0) as client:
        client.create_controller(spec(algorithm=FAST))
        wait_for(lambda: "-shm" in str(list(tmp_path.iterdir())))
        delete_all(tmp_path / "agent.db")
        wait_for(lambda: "learning is suspended: " in (tmp_path / "log").read_text())
        assert not (tmp_path / "agent.db").exists()


def test_two_services_on_one_store_learn_from_each_transition_once(tmp_path: Path) -> None:
    """Each answers any run's next report, both learners learn, and the second says that it is."""
    first, second = AgentProcess(tmp_path / "agent.db"), AgentProcess(tmp_path / "agent.db")
    second.log = tmp_path / "log"
    with (
        first,
        second,
        AgentClient(first.address) as one,
        AgentClient(second.address) as other,
    ):
        one.create_controller(spec(algorithm=FAST))
        for number in range(4):
            run = one.run("c", run_id=f"r{number}")
            for chunk in range(1, 17):
                report((first, second)[chunk % 2], chunk, of=run.run_id)
            run.finish()
        wait_for(lambda: one.get_controller("c").ready_transitions == 0)
        learned = [t.learned_in for t in other.transitions()]
        version = other.get_controller("c").policy_version
    assert sorted(learned) == [2] * 32 + [3] * 32
    assert version == 3
    assert verify_store(first.url) == 4 * 17
    assert (tmp_path / "log").read_text().count("another agent service serves") == 1


@of_sqlite
def test_a_reader_of_the_file_holds_nobody_up(served: ServedAgent, client: AgentClient) -> None:
    """Reports go on beside a long reading transaction; the log it made grow is cut afterwards."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    path = served.url.removeprefix("sqlite:///")
    slowest = 0.0

    def report_until(is_enough: Callable[[], bool]) -> None:
        nonlocal slowest
        for _ in range(20_000):
            started = time.monotonic()
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            slowest = max(slowest, time.monotonic() - started)
            if is_enough():
                return
        raise AssertionError("never enough")

    def log_bytes() -> int:
        return Path(f"{path}-wal").stat().st_size

    with closing(sqlite3.connect(path, isolation_level=None)) as dashboard:
        dashboard.execute("BEGIN")
        (before,) = dashboard.execute("SELECT count(*) FROM decisions").fetchone()
        report_until(lambda: log_bytes() > LOG_BYTES + 2**20)
        assert dashboard.execute("SELECT count(*) FROM decisions").fetchone() == (before,)
    report_until(lambda: log_bytes() <= LOG_BYTES)

    assert slowest < 2
