"""Runs and their events in one SQLite file, so that what happened survives the service."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agent_service.domain.errors import AgentError
from trainer_service.run import (
    ChunkTrained,
    Event,
    Finished,
    Planned,
    Run,
    RunSpec,
    RunState,
    StateChanged,
    What,
)

_SPEC = TypeAdapter(RunSpec)
_WHAT: TypeAdapter[What] = TypeAdapter(What)
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
"""


class RunStore:
    """The trainer's truth. Thread-safe; close it."""

    def __init__(self, path: Path) -> None:
        """Open the file, making it where there is none; raises AgentError where it is no store."""
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(_TABLES)
        except sqlite3.Error as error:
            raise AgentError(f"cannot open the run store {path}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def add(self, run_id: str, spec: RunSpec) -> Run:
        """Store a new run in the queue, with its first event."""
        now = time.time()
        with self._lock, self._connection:
            self._connection.execute(
                "INSERT INTO runs (id, spec, state, created_at) VALUES (?, ?, ?, ?)",
                (run_id, _SPEC.dump_json(spec).decode(), RunState.QUEUED.value, now),
            )
            self._append(run_id, StateChanged(state=RunState.QUEUED), now)
        run = self.find(run_id)
        assert run is not None
        return run

    def append(self, run_id: str, what: What) -> None:
        """Store what happened, and where the run stands after it, in one transaction."""
        with self._lock, self._connection:
            self._append(run_id, what, time.time())

    def _append(self, run_id: str, what: What, now: float) -> None:
        self._connection.execute(
            "INSERT INTO events SELECT key, "
            "(SELECT count(*) + 1 FROM events WHERE run_key = key), ?, ? FROM runs WHERE id = ?",
            (now, _WHAT.dump_json(what).decode(), run_id),
        )
        for column, value in _changes(what).items():
            self._connection.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run_id))

    def find(self, run_id: str) -> Run | None:
        """Return a run."""
        found = self._select("SELECT * FROM runs WHERE id = ?", (run_id,))
        return _run(found[0]) if found else None

    def list(self, *, state: RunState | None, after: int, limit: int) -> Sequence[Run]:
        """Return runs in the order of submission, with keys above `after`."""
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

    def events(self, run_id: str, *, after: int) -> Sequence[Event]:
        """Return a run's events with indices above `after`."""
        rows = self._select(
            "SELECT number, time, what FROM events JOIN runs ON key = run_key "
            "WHERE id = ? AND number > ? ORDER BY number",
            (run_id, after),
        )
        return [
            Event(index=row["number"], time=row["time"], what=_WHAT.validate_json(row["what"]))
            for row in rows
        ]

    def _select(self, query: str, values: Sequence[Any]) -> Sequence[sqlite3.Row]:
        with self._lock, closing(self._connection.execute(query, values)) as cursor:
            rows: Sequence[sqlite3.Row] = cursor.fetchall()
            return rows


def _changes(what: What) -> dict[str, Any]:
    """Return the columns of a run that an event changes."""
    match what:
        case StateChanged():
            return {"state": what.state.value, "cause": what.cause}
        case Planned():
            return {"planned_chunks": what.chunks}
        case ChunkTrained():
            return {"trained_chunks": what.chunk.index}
        case Finished():
            return {"result": _WHAT.dump_json(what).decode()}


def _run(row: sqlite3.Row) -> Run:
    result = None if row["result"] is None else _WHAT.validate_json(row["result"])
    assert result is None or isinstance(result, Finished)
    return Run(
        id=row["id"],
        key=row["key"],
        spec=_SPEC.validate_json(row["spec"]),
        state=RunState(row["state"]),
        cause=row["cause"],
        trained_chunks=row["trained_chunks"],
        planned_chunks=row["planned_chunks"],
        result=result,
        created_at=row["created_at"],
    )
