"""An agent service of a script's own: started with it, and gone with it, however it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import IO

from agent_service.domain.errors import AgentError

STOP_SECONDS = 6.0
"""How long the service may take to drain before it is killed; it takes 5 s at most."""


class LocalAgent:
    """`agent-service serve` on a free port of this machine, in a process of its own.

    Not in this one: whatever the script does, computing or forking, the service answers, and its
    learner needs no `if __name__ == "__main__"` around the script.
    """

    def __init__(self, store: str) -> None:
        """Start it; `store` is a URL, as `sqlite:///agent.db`.

        Raises:
            AgentError: it did not start; says why.
        """
        command = [sys.executable, "-c", "from agent_service.__main__ import main; main()", "serve"]
        command += ["--store", store, "--listen", "127.0.0.1:0", "--metrics-port", "0"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        # It ends when its standard input does, so with this process, even a killed one.
        self._process = subprocess.Popen(
            [*command, "--with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C is the script's: the run is to be finished first
        )
        assert self._process.stdout is not None
        found = re.search(r"agent service at (\S+),", self._process.stdout.readline())
        if found is None:
            self._process.wait()
            why = _last_line(self._log)
            self.close()
            raise AgentError(why or "the local agent service did not start")
        self.address = found[1]
        """HOST:PORT."""

    def close(self, *, waited: float = 0.0) -> None:
        """Let it drain, and wait for its end; `waited` seconds less."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS - waited)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""
