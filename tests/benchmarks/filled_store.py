"""A store of many rows, filled in minutes: copies of a run that the service itself decided.

The run is frozen, so nothing in it is drawn by its name, and each copy verifies as it does; the
checksums are made by the product's own function. Copies lie one after another, where a store that
was filled by live runs has theirs mixed.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent_service.client import AgentClient, Mode, Outcome
from agent_service.store.rows.checksums import checksum
from agent_service.store.sql.schema import decisions, runs
from tests.benchmarks import load

CHUNKS = 999
"""Of each run, which so has 1,000 decisions."""
_TEMPLATE = "template"
_AT_ONCE = 100
"""Copies in a transaction."""


def decide_template(address: str, controller: str, *, chunks: int = CHUNKS) -> None:
    """Let a service decide the run that is copied."""
    with AgentClient(address) as client:
        run = client.run(controller, run_id=_TEMPLATE, mode=Mode.FROZEN)
        for chunk in range(1, chunks + 1):
            report = load.report(_TEMPLATE, chunk)
            scores = report.scores
            run.report_chunk(
                list(report.losses),
                training_score=scores.training,
                validation_score=scores.validation,
            )
        run.finish(Outcome.TERMINATED)


def fill(path: Path, *, rows: int, told: Callable[[int], None]) -> int:
    """Copy the template until the store has so many decisions; nobody else has it open.

    Args:
        path: of the SQLite file.
        rows: decisions, at least.
        told: how many there are, again and again.

    Returns:
        How many decisions there are.
    """
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        (run,) = connection.execute(sa.select(runs).where(runs.c.id == _TEMPLATE)).mappings()
        of_run = sa.select(decisions).where(decisions.c.run_key == run["key"])
        template = [dict(row) for row in connection.execute(of_run).mappings()]
        key = connection.execute(sa.select(sa.func.max(runs.c.key))).scalar_one()
        last: int = connection.execute(sa.select(sa.func.max(decisions.c.position))).scalar_one()
    engine.dispose()
    database = sqlite3.connect(path, isolation_level=None)
    _prepare(database, run["key"], template)
    while last < rows:
        database.execute("BEGIN")
        for _ in range(_AT_ONCE):
            if last >= rows:
                break
            key += 1
            _copy_run(database, dict(run), key)
            database.execute(_copy_of_decisions(), {"last": last, "key": key})
            last += len(template)
        database.execute("COMMIT")
        told(last)
    database.close()
    return last


def _prepare(database: sqlite3.Connection, key: int, template: list[dict[str, Any]]) -> None:
    """Make a table of the template's decisions, and the function that gives their checksums."""
    # What is lost in a crash is filled again.
    for setting in ("synchronous = OFF", "cache_size = -200000", "temp_store = MEMORY"):
        database.execute(f"PRAGMA {setting}")
    database.execute(
        "CREATE TEMP TABLE template AS SELECT * FROM decisions WHERE run_key = ? ORDER BY chunk",
        (key,),
    )
    by_chunk = {row["chunk"]: row for row in template}

    def checksum_of(run_key: int, chunk: int) -> int:
        row = by_chunk[chunk]
        row["run_key"] = run_key
        return checksum(decisions, row)

    database.create_function("checksum_of", 2, checksum_of)


def _copy_run(database: sqlite3.Connection, run: dict[str, Any], key: int) -> None:
    run["id"] = f"copy-{key}"
    changed = {"id": run["id"], "key": key, "checksum": checksum(runs, run)}
    columns = [column.name for column in runs.columns]
    values = ", ".join(f":{name}" if name in changed else name for name in columns)
    database.execute(
        f"INSERT INTO runs ({', '.join(columns)}) SELECT {values} FROM runs WHERE id = :template",
        changed | {"template": _TEMPLATE},
    )


def _copy_of_decisions() -> str:
    columns = [column.name for column in decisions.columns]
    changed = {
        "position": ":last + chunk",
        "run_key": ":key",
        "checksum": "checksum_of(:key, chunk)",
    }
    values = ", ".join(changed.get(name, name) for name in columns)
    return f"INSERT INTO decisions ({', '.join(columns)}) SELECT {values} FROM temp.template"
