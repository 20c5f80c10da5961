"""Storage that fails under a real service: what is told, what is kept, and how it goes on."""

import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Run
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import Unavailable
from agent_service.store.journal import journal
from agent_service.store.sql import sqlite
from agent_service.store.sql.database import StoreError
from agent_service.store.store import SqlStore
from tests.agent_service.specs import spec
from tests.end_to_end.disks import full_disk, small_disk
from tests.end_to_end.processes import AgentProcess, command_of, learners, wait_for
from tests.given import ServedAgent

FAST = PPOSettings(rollout_size=32, batch_size=16, n_epochs=2)


def report(run: Run) -> None:
    run.report_chunk([2.0, 1.5, 1.25, 1.0], training_score=0.5, validation_score=0.5)


def report_until_refused(run: Run) -> Unavailable:
    """Report until the service cannot store it, and return what it says."""
    for _ in range(10_000):
        try:
            report(run)
        except Unavailable as error:
            return error
    raise AssertionError("the disk took it all")


@contextmanager
def limited_files(agent: AgentProcess, path: Path) -> Iterator[None]:
    """Let no file of the service grow any more while the context lasts, as a quota does."""
    pids = [agent.process.pid, *learners(agent)]
    length = path.with_name(path.name + "-wal").stat().st_size
    old = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_soft, hard) in zip(pids, old, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, old, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_a_service_outlives_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """Refused with what to do, nothing half stored, a quiet learner; then on without a restart."""
    folder = tmp_path / "disk"
    path = folder / "agent.db"
    agent = AgentProcess(path)
    agent.log = log = tmp_path / "log"
    with small_disk(folder) as is_mounted, agent:
        client = AgentClient(agent.address, budget_seconds=0)
        client.create_controller(spec(algorithm=FAST))
        run = client.run("c", run_id="r", when_away=None)
        wait_for(lambda: bool(learners(agent)))
        (learner,) = learners(agent)
        os.kill(learner, signal.SIGSTOP)
        for _ in range(40):
            report(run)
        with full_disk(folder) if is_mounted else limited_files(agent, path):
            error = report_until_refused(run)
            assert ("free space" if is_mounted else "file size limit") in str(error)
            stored = client.get_run("r").reported_chunks
            assert stored == run.action.chunk_index - 1, "what was answered, and no more"
            os.kill(learner, signal.SIGCONT)
            wait_for(lambda: "learning is suspended: the store failed" in log.read_text())
        report(run)
        wait_for(lambda: client.get_controller("c").policy_version == 2)
        run.finish()
        client.close()
        assert learners(agent) == [learner]
        assert agent.stop() == 0
        assert verify_store(agent.url) == stored + 2
    assert log.read_text().count("nothing is learned") <= 2
    assert "Traceback" not in log.read_text()


@contextmanager
def read_only(agent: AgentProcess, path: Path) -> Iterator[None]:
    """Let nobody write to a store's files, as a file system does that turned read-only.

    Where files cannot be made immutable, they cannot grow instead: the same for who writes.
    """
    files = [str(path), f"{path}-wal"]
    if subprocess.run(["chattr", "+i", *files], capture_output=True).returncode != 0:
        with limited_files(agent, path):
            yield
        return
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@pytest.mark.parametrize(
    ("fault", "says"), [(read_only, "check its disk"), (limited_files, "file size limit")]
)
def test_a_store_that_cannot_be_written_is_told_and_gone_on_with(
    tmp_path: Path, fault: Callable[[AgentProcess, Path], Any], says: str
) -> None:
    """Refused with the cause, reads are answered; writable again, the same report is stored."""
    path = tmp_path / "agent.db"
    with (
        AgentProcess(path) as agent,
        AgentClient(agent.address, budget_seconds=0) as client,
    ):
        client.create_controller(spec(algorithm=FAST))
        run = client.run("c", run_id="r", when_away=None)
        report(run)
        with fault(agent, path):
            assert says in str(report_until_refused(run))
            stored = client.get_run("r").reported_chunks
            assert stored == run.action.chunk_index - 1, "what was answered, and no more"
        report(run)

        assert client.get_run("r").reported_chunks == stored + 1


def without_overrides() -> list[str]:
    """Return the prefix of commands that file modes hold for, as they do not for root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.parametrize(
    ("folder_mode", "file_mode"), [(0o555, 0o644), (0o755, 0o444), (0o000, 0o644)]
)
def test_a_store_without_permission_is_told_at_the_start(
    tmp_path: Path, folder_mode: int, file_mode: int
) -> None:
    """One line that names the file or folder, and exit code 1."""
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "agent.db"
    SqlStore(f"sqlite:///{path}").close()
    path.chmod(file_mode)
    folder.chmod(folder_mode)
    command = [*without_overrides(), *command_of("agent_service"), "serve"]
    command += ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--store", f"sqlite:///{path}"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        folder.chmod(0o755)

    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    wrong = folder if folder_mode != 0o755 else path
    assert f"{wrong} may not be read and written" in shown.stderr


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a store as another process that writes does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_store_that_another_process_holds_is_waited_for_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on; a write fails after the lock's time, stores nothing, and succeeds afterwards."""
    for module in (journal, sqlite):
        monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    path = tmp_path / "agent.db"
    with ServedAgent(path) as served, AgentClient(served.address, budget_seconds=0) as client:
        client.create_controller(spec())
        run = client.run("c", run_id="r", when_away=None)
        with held(path):
            with pytest.raises(Unavailable, match="locked by another process"):
                report(run)
            assert client.get_run("r").reported_chunks == 0
            with pytest.raises(StoreError, match="another process locks it"):
                SqlStore(served.url)
        report(run)
        assert client.get_run("r").reported_chunks == 1
