"""Ranks of a training by several processes, forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMPORTED = ["pytest", "torch.distributed.fsdp", "agent_service.client.model"]
"""Torch takes seconds."""


class Rank:
    """A process that runs a script, as `python -c SCRIPT RANK ARGUMENTS` would."""

    def __init__(self, script: str, rank: int, arguments: tuple[str, ...], output: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*IMPORTED, __name__])
        self._output = output
        self._process = context.Process(
            target=_run, args=(script, [str(rank), *arguments], str(output)), daemon=True
        )
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; return its exit code, None if it has not ended by then."""
        self._process.join(seconds)
        return self._process.exitcode

    def printed(self, seconds: float) -> list[str]:
        """Wait for its end; return the words that it printed."""
        assert self.wait(seconds) == 0
        return self._output.read_text().split()

    def end(self) -> None:
        self._process.kill()
        self._process.join()


@contextmanager
def two_ranks(script: str, folder: Path, *arguments: str) -> Iterator[list[Rank]]:
    """Run a script as ranks 0 and 1, and end both with the context.

    Args:
        script: gets its rank, the path of a file to meet at, and the arguments.
        folder: holds that file and the ranks' output.
        arguments: of both.
    """
    store = str(folder / "store")
    ranks = [Rank(script, rank, (store, *arguments), folder / f"output.{rank}") for rank in (0, 1)]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.end()


def _run(script: str, arguments: list[str], output: str) -> None:
    sys.argv = ["-c", *arguments]
    with open(output, "w") as sys.stdout:
        exec(compile(script, "<rank>", "exec"), {"__name__": "__main__"})
