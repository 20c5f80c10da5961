"""Row checksums: a row that was changed outside the store is refused, never used.

SQLite detects damage to its own structure, but not to the content of pages. A row's checksum is the
sum of a CRC over its constant columns and one for each column that changes; an update adds the
difference of what it changes, so earlier damage still shows. It does not cover the row's key, which
the database assigns, nor trailing NULL columns, so that columns may be added at the end of a table.
Rows of releases before checksums have none and are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, NoReturn
from zlib import crc32

import sqlalchemy as sa

from agent_service.domain.errors import Unavailable
from agent_service.store.sql.schema import controllers, decisions, policies, runs

_CHANGING = {
    controllers: {"mode", "policy_version", "deleted_at", "archived_recorded"},
    policies: set[str](),
    runs: {"reported_chunks", "outcome", "final_score", "updated_at", "abandoned_at", "archive"},
    decisions: {"use", "learned_in"},
}
_KEYS = {controllers: ("id",), policies: (), runs: ("key",), decisions: ("position",)}
"""Keys that the database assigns when a row is inserted."""
_STORED: dict[type, Callable[[Any], object]] = {
    # A float column loses the sign of negative zero, and returns integers as floats.
    sa.Double: lambda value: float(value) + 0.0,
    sa.Boolean: bool,
    sa.JSON: lambda value: json.loads(json.dumps(value)),
}
"""Converts a written value to what will be read, by type of column, if the two differ."""


@cache
def _columns(table: sa.Table, prefix: str) -> tuple[itemgetter[Any], list[tuple[str, str]]]:
    """Return a getter of a row's constant columns, and the names of the others.

    Each of those as (name in the table, name with the prefix).
    """
    left_out = {*_KEYS[table], "checksum"}
    names = [column.name for column in table.columns if column.name not in left_out]
    fixed = [prefix + name for name in names if name not in _CHANGING[table]]
    changing = [(name, prefix + name) for name in names if name in _CHANGING[table]]
    return itemgetter(*fixed), changing


def with_checksum(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new row's values, as they will be read, with their checksum."""
    stored = as_stored(table, row)
    return {**stored, "checksum": checksum(table, _empty(table) | stored)}


def checksum_delta(table: sa.Table, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return what an update adds to a row's checksum.

    Args:
        table: the row's table.
        before: values, as read, of the columns that the update changes; others are ignored.
        after: the new values of these columns.
    """
    return sum(
        column_checksum(name, value) - column_checksum(name, before.get(name))
        for name, value in as_stored(table, after).items()
    )


def check(table: sa.Table, row: Mapping[str, Any], prefix: str) -> None:
    """Check a row that was read, whose columns begin with `prefix`, against its checksum.

    Raises:
        Unavailable: it is damaged; names the table and the row.
    """
    stored = row[f"{prefix}checksum"]
    if stored is not None and checksum(table, row, prefix) != stored:
        raise_damaged(table, row, prefix)


def raise_damaged(table: sa.Table, row: Mapping[str, Any], prefix: str) -> NoReturn:
    """Raise Unavailable for a damaged row."""
    key = ", ".join(f"{c.name} {row[prefix + c.name]!r:.40}" for c in table.primary_key)
    raise Unavailable(
        f"the store is damaged: table {table.name}, row {key}, does not match its checksum; stop "
        "the service and restore a copy of the store"
    )


@cache
def _empty(table: sa.Table) -> dict[str, Any]:
    return dict.fromkeys(table.columns.keys())


def as_stored(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they will be read after they are written."""
    forms = _forms(table)
    return {
        name: forms[name](value) if value is not None and name in forms else value
        for name, value in row.items()
    }


@cache
def _forms(table: sa.Table) -> dict[str, Callable[[Any], object]]:
    return {
        column.name: _STORED[type(column.type)]
        for column in table.columns
        if type(column.type) in _STORED
    }


def checksum(table: sa.Table, row: Mapping[str, Any], prefix: str = "") -> int:
    """Return the checksum of a whole row, whose values are as read, or `as_stored`."""
    fixed, changing = _columns(table, prefix)
    content = list(fixed(row))
    while content and content[-1] is None:
        content.pop()
    for place, value in enumerate(content):
        if type(value) is bytes:
            content[place] = crc32(value)
    total = crc32(repr(content).encode())
    for name, key in changing:
        total += column_checksum(name, row[key])
    return total


@lru_cache(32_768)
def column_checksum(name: str, value: Any) -> int:
    """Return a changing column's part of the checksum.

    Cached: the value that one update writes is the one that the next replaces.
    """
    return 0 if value is None else crc32(repr((name, value)).encode())
