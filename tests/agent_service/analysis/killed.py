"""Prunes copies of a store in processes that kill themselves at some point, each at another one.

Run as `python -m tests.agent_service.analysis.killed STORE FOLDER EVERY`: FOLDER/N then has the
store and the archive as the Nth process left them. What is counted are the calls from the modules
that prune, write Parquet and write to the store.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pyarrow.compute
import pyarrow.parquet  # noqa: F401

from agent_service.analysis.prune import Pruner, make_plan
from agent_service.store.store import SqlStore

COUNTED = (
    "/agent_service/analysis/p",
    "/agent_service/store/rows/retention",
    "/agent_service/store/journal/writ",
)


def prune(store: SqlStore, archive: Path) -> None:
    """Prune all of a store, in small steps and files."""
    pruner = Pruner(store, archive, batch=3, per_file=8)
    with pruner.pruning() as elsewhere:
        assert elsewhere == []
        pruner.prune(make_plan(store, before=1e12), progress=lambda _count: None)


class _Killer:
    """Ends the process at its so-manyth call, or (0) counts the calls."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "c_call", "c_return") and _is_counted(frame.f_code):
            self.count += 1
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


def _is_counted(code: CodeType) -> bool:
    return any(part in code.co_filename for part in COUNTED)


def calls(store: Path, folder: Path) -> int:
    """Return how many calls a whole prune of a copy makes."""
    (folder / "0").mkdir(parents=True)
    shutil.copy(store, folder / "0" / "agent.db")
    child = os.fork()
    if child == 0:
        killer = _Killer(0)
        with SqlStore(f"sqlite:///{folder}/0/agent.db") as opened:
            sys.setprofile(killer)
            prune(opened, folder / "0" / "archive")
            sys.setprofile(None)
        (folder / "0" / "calls").write_text(str(killer.count))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return int((folder / "0" / "calls").read_text())


def killed(store: Path, folder: Path, at: int) -> None:
    """Prune a copy, and be killed at the so-manyth call."""
    (folder / str(at)).mkdir()
    shutil.copy(store, folder / str(at) / "agent.db")
    child = os.fork()
    if child == 0:
        with SqlStore(f"sqlite:///{folder}/{at}/agent.db") as opened:
            sys.setprofile(_Killer(at))
            prune(opened, folder / str(at) / "archive")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


if __name__ == "__main__":
    given, where, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    total = calls(given, where)
    for place in range(kills):
        killed(given, where, 1 + place * (total - 1) // kills)
