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
_FORMS: dict[type, Callable[[Any], object]] = {
    # A column of floats keeps no negative zero, and gives integers back as floats.
    sa.Double: lambda value: float(value) + 0.0,
    sa.Boolean: bool,
    sa.JSON: json.dumps,
}
_Columns = tuple[tuple[str, Callable[[Any], object]], ...]


def _columns(table: sa.Table, *, changing: bool) -> _Columns:
    left_out = {*_KEYS[table], "checksum"}
    return tuple(
        (column.name, _FORMS.get(type(column.type), lambda value: value))
        for column in sorted(table.columns, key=lambda column: column.name)
        if column.name not in left_out and (column.name in _CHANGING[table]) is changing
    )


_FIXED_COLUMNS = {table: _columns(table, changing=False) for table in _CHANGING}
_CHANGING_COLUMNS = {table: _columns(table, changing=True) for table in _CHANGING}


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new row's columns with their checksum."""
    return {**row, "checksum": _checksum(table, row, "")}


def change(table: sa.Table, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return what an update adds to a row's checksum.

    Args:
        table: the row's.
        before: the columns that may change, as they are; more do no harm.
        after: the columns that change, as they become.
    """
    return sum(
        _of_column(name, form, after[name]) - _of_column(name, form, before.get(name))
        for name, form in _CHANGING_COLUMNS[table]
        if name in after
    )


def check(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> None:
    """Check a row whose columns begin with `prefix` against its checksum.

    Raises:
        Unavailable: it is damaged; names the table and the row.
    """
    stored = row[f"{prefix}checksum"]
    if stored is None:
        return
    try:
        is_intact = _checksum(table, row, prefix) == stored
    except (ValueError, TypeError, OverflowError):
        is_intact = False
    if not is_intact:
        refuse(table, row, prefix)


def refuse(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> NoReturn:
    """Raise Unavailable for a damaged row."""
    key = ", ".join(f"{c.name} {row[prefix + c.name]!r:.40}" for c in table.primary_key)
    raise Unavailable(
        f"the store is damaged: table {table.name}, row {key}, is not what was written; stop the "
        "service and restore a copy of the store"
    )


def _checksum(table: sa.Table, row: Mapping[Any, Any], prefix: str) -> int:
    fixed = [
        (name, form(value))
        for name, form in _FIXED_COLUMNS[table]
        if (value := row.get(prefix + name)) is not None
    ]
    changing = (
        _of_column(name, form, row.get(prefix + name)) for name, form in _CHANGING_COLUMNS[table]
    )
    return crc32(repr(fixed).encode()) + sum(changing)


def _of_column(name: str, form: Callable[[Any], object], value: Any) -> int:
    return 0 if value is None else crc32(repr((name, form(value))).encode())
