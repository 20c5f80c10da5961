"""Stores runs and their events in one SQLite file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from agent_service.domain.errors import AgentError, Unavailable
from agent_service.store_files import StoreFiles
from trainer_service.locks import lock
from trainer_service.runs.run import (
    ChunkTrained,
    Event,
    EventContent,
    Finished,
    Planned,
    Run,
    RunSpec,
    RunState,
    StateChanged,
)

_SPEC = TypeAdapter(RunSpec)
_CONTENT: TypeAdapter[EventContent] = TypeAdapter(EventContent)
VERSION = 2
"""Stored as SQLite's `user_version`: 0 in the first release; up to 1, runs had no parents.

The tables are the same in all versions.
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    state TEXT NOT NULL,
    cause TEXT NOT NULL DEFAULT '',
    trained_chunks INTEGER NOT NULL DEFAULT 0,
    planned_chunks INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    created_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    run_key INTEGER NOT NULL REFERENCES runs (key),
    number INTEGER NOT NULL,
    time REAL NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (run_key, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL) STRICT;
INSERT INTO identity SELECT lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT * FROM identity);
"""


class RunStore:
    """The runs and their events; open in one process at a time. Thread-safe; close it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            AgentError: not a run store, one of a newer version, or open in another process.
        """
        self._lock = threading.Lock()
        self._revisions: Counter[str] = Counter()
        with ExitStack() as opened:
            try:
                opened.enter_context(_held(path))
                files = StoreFiles(path, verified_by=f'sqlite3 {path} "PRAGMA integrity_check"')
                self._files = opened.enter_context(closing(files))
                connection = sqlite3.connect(path, check_same_thread=False)
                self._connection = opened.enter_context(closing(connection))
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._migrate(path)
            except (sqlite3.Error, OSError) as error:
                raise AgentError(f"cannot open the run store {path}: {error}") from error
            self._opened = opened.pop_all()

    def _migrate(self, path: Path) -> None:
        """Migrate the store to this version."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise AgentError(
                f"the run store {path} has version {version}, newer than this service's {VERSION}; "
                "upgrade the service, or use another store"
            )
        self._connection.executescript(_TABLES)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    @property
    def identity(self) -> str:
        """The store's unique id: 16 hexadecimal digits."""
        identity: str = self._select("SELECT id FROM identity", ())[0]["id"]
        return identity

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._opened.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run a transaction; raises Unavailable, and stores nothing, if it cannot be written."""
        with self._lock:
            try:
                with self._connection:
                    yield
                    self._files.check()
            except sqlite3.OperationalError as error:
                raise Unavailable(f"the run store cannot be written: {error}") from error

    def add(self, run_id: str, spec: RunSpec, *, trained_chunks: int = 0) -> Run:
        """Store a new queued run, with its first event, and the chunks inherited from its parent.

        Raises:
            Unavailable: the store cannot be written.
        """
        now = time.time()
        with self._writing():
            self._connection.execute(
                "INSERT INTO runs (id, spec, state, created_at, trained_chunks) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    run_id,
                    _SPEC.dump_json(spec).decode(),
                    RunState.QUEUED.value,
                    now,
                    trained_chunks,
                ),
            )
            self._append(run_id, StateChanged(state=RunState.QUEUED), now)
        run = self.find(run_id)
        assert run is not None
        return run

    def append(self, run_id: str, what: EventContent) -> bool:
        """Store an event and the run's resulting columns, in one transaction.

        Idempotent: a run that resumes from a checkpoint repeats chunks and results, and one that
        waits repeats its state; each is stored once.

        Returns:
            Whether the event is new.

        Raises:
            Unavailable: the store cannot be written, as on a full disk; the call may be repeated.
        """
        run = self.find(run_id)
        assert run is not None, "the run was added before"
        if _is_known(run, what):
            return False
        with self._writing():
            self._append(run_id, what, time.time())
        return True

    def _append(self, run_id: str, what: EventContent, now: float) -> None:
        # Under the lock, before the commit: a reader of the new number waits for the event.
        self._revisions[run_id] += 1
        self._connection.execute(
            "INSERT INTO events SELECT key, "
            "(SELECT coalesce(max(number), 0) + 1 FROM events WHERE run_key = key), ?, ? "
            "FROM runs WHERE id = ?",
            (now, _CONTENT.dump_json(what).decode(), run_id),
        )
        for column, value in _changes(what).items():
            self._connection.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run_id))

    def find(self, run_id: str) -> Run | None:
        """Return a run, or None."""
        found = self._select("SELECT * FROM runs WHERE id = ?", (run_id,))
        return _run(found[0]) if found else None

    def find_unended_child(self, run_id: str) -> str | None:
        """Return the id of a queued or running run whose parent is `run_id`, or None."""
        found = self._select(
            "SELECT id FROM runs WHERE state IN (?, ?) "
            "AND json_extract(spec, '$.parent') = ? LIMIT 1",
            (RunState.QUEUED.value, RunState.RUNNING.value, run_id),
        )
        return found[0]["id"] if found else None

    def list(self, *, state: RunState | None, after: int, limit: int) -> Sequence[Run]:
        """Return up to `limit` runs with keys above `after`, in the order of submission."""
        chosen = [state] if state else list(RunState)
        marks = ", ".join("?" * len(chosen))
        rows = self._select(
            f"SELECT * FROM runs WHERE key > ? AND state IN ({marks}) ORDER BY key LIMIT ?",
            (after, *(s.value for s in chosen), limit),
        )
        return [_run(row) for row in rows]

    def count(self) -> dict[RunState, int]:
        """Return the number of runs in each state."""
        rows = self._select("SELECT state, count(*) AS count FROM runs GROUP BY state", ())
        counts = {row["state"]: row["count"] for row in rows}
        return {state: counts.get(state.value, 0) for state in RunState}

    def revision(self, run_id: str) -> int:
        """Return a number that grows with each event of a run, without reading the file.

        Read it before the run and its events: a change means that there is more to read.
        """
        return self._revisions[run_id]

    def events(self, run_id: str, *, after: int) -> Sequence[Event]:
        """Return a run's events with indices above `after`."""
        rows = self._select(
            "SELECT number, time, what FROM events JOIN runs ON key = run_key "
            "WHERE id = ? AND number > ? ORDER BY number",
            (run_id, after),
        )
        return [
            Event(index=row["number"], time=row["time"], what=_CONTENT.validate_json(row["what"]))
            for row in rows
        ]

    def _select(self, query: str, values: Sequence[Any]) -> Sequence[sqlite3.Row]:
        with self._lock, closing(self._connection.execute(query, values)) as cursor:
            rows: Sequence[sqlite3.Row] = cursor.fetchall()
            return rows


def _held(path: Path) -> IO[bytes]:
    """Return a store's lock file, locked until it is closed or this process ends."""
    file = path.with_name(f"{path.name}.lock").open("ab")
    if not lock(file):
        file.close()
        raise AgentError(
            f"the run store {path} is in use by another trainer service; give each its own"
        )
    return file


def _is_known(run: Run, what: EventContent) -> bool:
    """Whether an event is stored already."""
    match what:
        case StateChanged(state=state, cause=cause):
            return (run.state, run.cause) == (state, cause)
        case ChunkTrained(chunk=chunk):
            return chunk.index <= run.trained_chunks
        case Finished():
            return run.result is not None
        case Planned():
            return False


def _changes(what: EventContent) -> dict[str, Any]:
    """Return the columns of the run that an event updates."""
    match what:
        case StateChanged():
            return {"state": what.state.value, "cause": what.cause}
        case Planned():
            return {"planned_chunks": what.chunks}
        case ChunkTrained():
            return {"trained_chunks": what.chunk.index}
        case Finished():
            return {"result": _CONTENT.dump_json(what).decode()}


def _run(row: sqlite3.Row) -> Run:
    """Return the run of a row, whose columns are named as its fields."""
    result = None if row["result"] is None else _CONTENT.validate_json(row["result"])
    spec, state = _SPEC.validate_json(row["spec"]), RunState(row["state"])
    return Run(**dict(row) | {"spec": spec, "state": state, "result": result})
