"""A checksum in each row: what was changed behind the database's back is refused, never used.

SQLite finds damage of its own structure, but not of what a page holds. A row's checksum is the sum
of one over the columns that never change and one for each column that does, so that an update adds
the difference of what it changes, and damage from before it still shows. It does not cover the
row's own number, which the database gives, nor columns that are empty, so that a column may be
added later. Rows from before there were checksums have none and are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from zlib import crc32

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.store.schema import controllers, decisions, policies, runs

_CHANGING = {
    controllers: {"mode", "policy_version", "deleted_at"},
    policies: set[str](),
    runs: {"reported_chunks", "outcome", "final_score", "updated_at", "abandoned_at"},
    decisions: {"use", "learned_in"},
}
_KEYS = {controllers: ("id",), policies: (), runs: ("key",), decisions: ("position",)}
"""Numbers that the database gives when a row is inserted."""
_STORED: dict[type, Callable[[Any], object]] = {
    # A column of floats keeps no negative zero, and gives integers back as floats.
    sa.Double: lambda value: float(value) + 0.0,
    sa.Boolean: bool,
    sa.JSON: lambda value: json.loads(json.dumps(value)),
}
"""How a value is read again, by the type of its column, where that is not as it was written."""


def _columns(table: sa.Table, *, changing: bool) -> tuple[str, ...]:
    left_out = {*_KEYS[table], "checksum"}
    names = sorted(column.name for column in table.columns if column.name not in left_out)
    return tuple(name for name in names if (name in _CHANGING[table]) is changing)


_FIXED_COLUMNS = {table: _columns(table, changing=False) for table in _CHANGING}
_CHANGING_COLUMNS = {table: _columns(table, changing=True) for table in _CHANGING}


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new row's columns with their checksum."""
    return {**row, "checksum": _checksum(table, _as_stored(table, row), "")}


def change(table: sa.Table, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return what an update adds to a row's checksum.

    Args:
        table: the row's.
        before: the columns that change, as they were read; more do no harm.
        after: the columns that change, as they become.
    """
    return sum(
        _of_column(name, value) - _of_column(name, before.get(name))
        for name, value in _as_stored(table, after).items()
    )


def check(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> None:
    """Check a row as it was read, whose columns begin with `prefix`, against its checksum.

    Raises:
        Unavailable: it is damaged; names the table and the row.
    """
    stored = row[f"{prefix}checksum"]
    if stored is not None and _checksum(table, row, prefix) != stored:
        refuse(table, row, prefix)


def refuse(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> NoReturn:
    """Raise Unavailable for a damaged row."""
    key = ", ".join(f"{c.name} {row[prefix + c.name]!r:.40}" for c in table.primary_key)
    raise Unavailable(
        f"the store is damaged: table {table.name}, row {key}, is not what was written; stop the "
        "service and restore a copy of the store"
    )


def _as_stored(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what will be read again, of values that are written."""
    stored = {}
    for name, value in row.items():
        form = _STORED.get(type(table.c[name].type))
        stored[name] = value if value is None or form is None else form(value)
    return stored


def _checksum(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> int:
    fixed = [
        (name, crc32(value) if type(value) is bytes else value)
        for name in _FIXED_COLUMNS[table]
        if (value := row.get(prefix + name)) is not None
    ]
    changing = (_of_column(name, row.get(prefix + name)) for name in _CHANGING_COLUMNS[table])
    return crc32(repr(fixed).encode()) + sum(changing)


def _of_column(name: str, value: Any) -> int:
    return 0 if value is None else crc32(repr((name, value)).encode())
