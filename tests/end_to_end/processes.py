"""Real server processes for tests."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class AgentProcess:
    """`agent-service serve` on a store; starts anew after a kill, on the same port."""

    def __init__(self, store: Path) -> None:
        self.url = f"sqlite:///{store}"
        self.address = "127.0.0.1:0"

    def start(self) -> None:
        command = [sys.executable, "-c", "from agent_service.cli import main; main()", "serve"]
        command += ["--store", self.url, "--listen", self.address, "--metrics-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"agent service at (\S+), metrics at (\S+)\n", line)
        assert found, f"the agent service said {line!r}"
        self.address, self.metrics = found.groups()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.stop()
