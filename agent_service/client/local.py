"""A script's own agent service, which ends with the script, however that ends."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from typing import IO

from agent_service.domain.errors import AgentError

STOP_SECONDS = 6.0
"""Time for the service to drain before it is killed; it needs 5 s at most."""


class LocalAgent:
    """`agent-service serve` on a free port of this machine, in a separate process.

    So the service answers whatever the script does, computing or forking, and its learner does not
    require the script to have an `if __name__ == "__main__"` guard.
    """

    def __init__(self, store: str) -> None:
        """Start it; `store` is a URL, such as `sqlite:///agent.db`.

        Raises:
            AgentError: it did not start; the message says why.
        """
        command = [sys.executable, "-c", "from agent_service.__main__ import main; main()", "serve"]
        command += ["--store", store, "--listen", "127.0.0.1:0", "--metrics-port", "0"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        # It ends when its standard input is closed, so with this process, even if that is killed.
        self._process = subprocess.Popen(
            [*command, "--with-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # so that Ctrl-C lets the script finish its run first
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
        """Let it drain, and kill it after STOP_SECONDS minus `waited`."""
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
