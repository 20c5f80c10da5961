"""Real server processes for tests."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self


class ServiceProcess:
    """A `serve` command; starts anew after a kill, on the same port. Ends with its context."""

    log: Path | None = None
    """Where its standard error goes; None leaves it the test's."""
    within: Sequence[str] = ()
    """A command that the service's command is given to, and that becomes it."""

    def __init__(self, package: str, *options: str) -> None:
        self._package = package
        self._options = options
        self.address = "127.0.0.1:0"

    def start(self) -> None:
        command = [*self.within, *command_of(self._package), "serve", "--listen", self.address]
        command += ["--metrics-port", "0", *self._options]
        with open(self.log or os.devnull, "a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log if self.log else None, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"\w+ service at (\S+), metrics at (\S+)\n", line)
        assert found, f"{self._package} said {line!r}"
        self.address, self.metrics = found.groups()

    def memory(self) -> float:
        """Return what the process holds in memory, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        code = self.stop() if self.process.poll() is None else 0
        assert code == 0 or error is not None


class AgentProcess(ServiceProcess):
    def __init__(self, store: Path | str, *options: str) -> None:
        self.url = store if isinstance(store, str) else f"sqlite:///{store}"
        super().__init__("agent_service", "--store", self.url, *options)


class TrainerProcess(ServiceProcess):
    """`trainer-service serve` with a run store and data in a folder.

    Runs have one thread, since the last bits of a sum depend on how many share it.
    """

    def __init__(
        self, folder: Path, *more: str, agent: str = "127.0.0.1:9", parallel: int = 1
    ) -> None:
        self.store = folder / "trainer.db"
        options = ("--runs", str(self.store), "--data", str(folder), "--agent", agent)
        super().__init__(
            "trainer_service", *options, "--parallel", str(parallel), "--threads", "1", *more
        )

    def run_processes(self) -> list[int]:
        """Return the processes of runs: grandchildren, forked from the one that has torch."""
        return [run for child in children(self.process.pid) for run in children(child)]


def command_of(package: str) -> list[str]:
    """Return the command line of a package's console command."""
    return [sys.executable, "-c", f"from {package}.cli.main import main; main()"]


def start_in_terminal(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a group of its own, as a shell does for whom Ctrl-C is pressed.

    A shell that runs its jobs in the background, as under CI, lets them ignore Ctrl-C instead.
    """
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def children(pid: int) -> list[int]:
    """Return the processes that any thread of a process started."""
    try:
        listed = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [int(child) for children in listed for child in children.split()]


def learners(agent: ServiceProcess) -> list[int]:
    """Return the learner's process, if there is one just now."""
    return [pid for pid in children(agent.process.pid) if b"spawn_main" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait until a condition is true; fail where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
