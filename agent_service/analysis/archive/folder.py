"""An archive: a folder of Parquet files, each of which is whole or goes by another name."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent_service.analysis.archive.errors import ArchiveError
from agent_service.analysis.archive.form import read_run_ids, read_runs, sync, write_runs
from agent_service.domain.retention import StoredRow
from agent_service.domain.runs import Decision, Run
from agent_service.store.rows.rows import decision_from_row, run_from_row

_PENDING = ".pending"
"""Ends the name of a file of which some runs may still be the store's."""
_PART = ".part"
"""Ends the name of a file that is being written; of one who was killed, it is worth nothing."""


@dataclass(frozen=True, slots=True)
class ArchivedRun:
    """A run with all its decisions, by chunk."""

    archive: str
    """The name of its file, as the store knows it."""
    is_pending: bool
    """Whether the store has the last word on where the run is."""
    run: Run
    decisions: Sequence[Decision]


class Archive:
    """The files of one folder. Their names sort by when they were made."""

    def __init__(self, folder: Path) -> None:
        """Read a folder, which `pruning` makes where there is none."""
        self._folder = folder

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self._files("*.parquet"))

    @contextmanager
    def pruning(self) -> Iterator[None]:
        """Keep other prunes out, and begin without what a killed one left half written.

        Raises:
            ArchiveError: another prune works on this archive.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArchiveError(
                    f"another prune works on the archive {self._folder}; wait for its end"
                ) from error
            for path in self._files(f"*{_PART}"):
                path.unlink()
            yield

    def has(self, archive: str) -> bool:
        """Whether a file is there and settled."""
        return (self._folder / archive).is_file()

    def pending(self) -> list[str]:
        """Return the files that are not settled, by their names once they are."""
        return [path.name.removesuffix(_PENDING) for path in self._files(f"*.parquet{_PENDING}")]

    def add(self, logs: Iterable[Sequence[StoredRow]]) -> str:
        """Write runs to a new file, durably, and return its name; it waits to be settled.

        Raises:
            ArchiveError: it cannot be written, or is read otherwise than it was written.
        """
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        archive = f"runs-{moment}-{uuid.uuid4().hex[:8]}.parquet"
        self._write(self._folder / f"{archive}{_PENDING}", logs)
        return archive

    def settle(self, archive: str, runs: Set[str]) -> None:
        """Let a file hold these runs and no others; without any it goes.

        Whatever dies when, the file is there whole, or still waits to be settled.
        """
        pending = self._folder / f"{archive}{_PENDING}"
        if not runs:
            pending.unlink()
        elif runs == read_run_ids(pending):
            pending.replace(self._folder / archive)
        else:
            logs = (log for log in read_runs(pending) if log[0]["run_id"] in runs)
            self._write(self._folder / archive, logs)
            pending.unlink()
        sync(self._folder)

    def _write(self, path: Path, logs: Iterable[Sequence[StoredRow]]) -> None:
        part = path.with_name(f"{path.name}{_PART}")
        try:
            write_runs(part, logs)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync(self._folder)

    def runs(
        self, *, controller: str = "", run_id: str = "", with_pending: bool = False
    ) -> Iterator[ArchivedRun]:
        """Yield runs, file by file, of one controller or one id or (empty) all.

        Args:
            controller: whose.
            run_id: which.
            with_pending: also those of files that are not settled, which the store may have, too.

        Raises:
            ArchiveError: a file is damaged or no archive, or there is no such folder.
        """
        if not self._folder.is_dir():
            raise ArchiveError(f"there is no archive {self._folder}")
        for path in self._files("*.parquet*" if with_pending else "*.parquet"):
            is_pending = path.name.endswith(_PENDING)
            archive = path.name.removesuffix(_PENDING)
            if not archive.endswith(".parquet") or (is_pending and self.has(archive)):
                continue
            for log in read_runs(path, controller=controller, run_id=run_id):
                run = run_from_row(log[0])
                yield ArchivedRun(archive, is_pending, run, [decision_from_row(r) for r in log])

    def _files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self._folder.glob(pattern) if path.is_file())
