"""The supervised process: started anew when it dies or hangs, gone with who started it."""

import os
import signal
import time
from pathlib import Path

from agent_service.learning.process import Heartbeat, Supervisor
from tests.end_to_end.processes import is_alive, wait_for


def write_pid(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()


def live(heartbeat: Heartbeat, folder: str) -> None:
    write_pid(folder)
    while True:
        heartbeat.beat()
        time.sleep(0.01)


def hang(_heartbeat: Heartbeat, folder: str) -> None:
    write_pid(folder)
    time.sleep(1000)


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_one_that_dies_is_started_anew(tmp_path: Path) -> None:
    """Killed, another one takes its place; it ends with its supervisor."""
    with Supervisor(live, str(tmp_path)):
        wait_for(lambda: len(pids(tmp_path)) == 1)
        (first,) = pids(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(pids(tmp_path)) == 2)

    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_one_is_shielded_from_ctrl_c_from_its_first_moment(tmp_path: Path) -> None:
    """Signals that a terminal sends to the whole group end no process, while it starts or later."""
    with Supervisor(live, str(tmp_path)) as supervisor:
        wait_for(lambda: supervisor.pid is not None)
        first = supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGINT)
        wait_for(lambda: pids(tmp_path) != [])
        os.kill(first, signal.SIGINT)
        seen = time.monotonic()
        wait_for(lambda: time.monotonic() - seen > 0.3)

        assert supervisor.pid == first


def test_one_that_hangs_is_killed_and_started_anew(tmp_path: Path) -> None:
    """Without a sign of life for its time it is gone, and another one is there."""
    with Supervisor(hang, str(tmp_path), hang_seconds=1.0):
        wait_for(lambda: len(pids(tmp_path)) >= 2)

    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_one_that_shows_life_is_let_alone(tmp_path: Path) -> None:
    """However short the time, the same process is there after twice that."""
    seen: dict[int | None, float] = {}
    with Supervisor(live, str(tmp_path), hang_seconds=1.5) as supervisor:
        wait_for(lambda: supervisor.pid in pids(tmp_path))
        wait_for(lambda: time.monotonic() - seen.setdefault(supervisor.pid, time.monotonic()) > 3)
