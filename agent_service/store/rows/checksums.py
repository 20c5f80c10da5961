"""A checksum in each row: what was changed behind the database's back is refused, never used.

SQLite finds damage of its own structure, but not of what a page holds. A row's checksum is the sum
of one over the columns that never change and one for each column that does, so that an update adds
the difference of what it changes, and damage from before it still shows. It does not cover the
row's own number, which the database gives, nor empty columns at the end of a table, so that columns
may be added there. Rows from before there were checksums have none and are not checked.
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
"""Numbers that the database gives when a row is inserted."""
_STORED: dict[type, Callable[[Any], object]] = {
    # A column of floats keeps no negative zero, and gives integers back as floats.
    sa.Double: lambda value: float(value) + 0.0,
    sa.Boolean: bool,
    sa.JSON: lambda value: json.loads(json.dumps(value)),
}
"""How a value is read again, by the type of its column, where that is not as it was written."""


@cache
def _columns(table: sa.Table, prefix: str) -> tuple[itemgetter[Any], list[tuple[str, str]]]:
    """Return what takes the columns that never change from a row, and the names of the others.

    Those stand first as in the table, then with the prefix.
    """
    left_out = {*_KEYS[table], "checksum"}
    names = [column.name for column in table.columns if column.name not in left_out]
    fixed = [prefix + name for name in names if name not in _CHANGING[table]]
    changing = [(name, prefix + name) for name in names if name in _CHANGING[table]]
    return itemgetter(*fixed), changing


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new row's columns, as they will be read again, with their checksum."""
    stored = as_stored(table, row)
    return {**stored, "checksum": checksum(table, _empty(table) | stored)}


def change(table: sa.Table, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return what an update adds to a row's checksum.

    Args:
        table: the row's.
        before: the columns that change, as they were read; more do no harm.
        after: the columns that change, as they become.
    """
    return sum(
        of_column(name, value) - of_column(name, before.get(name))
        for name, value in as_stored(table, after).items()
    )


def check(table: sa.Table, row: Mapping[str, Any], prefix: str) -> None:
    """Check a row as it was read, whose columns begin with `prefix`, against its checksum.

    Raises:
        Unavailable: it is damaged; names the table and the row.
    """
    stored = row[f"{prefix}checksum"]
    if stored is not None and checksum(table, row, prefix) != stored:
        refuse(table, row, prefix)


def refuse(table: sa.Table, row: Mapping[str, Any], prefix: str) -> NoReturn:
    """Raise Unavailable for a damaged row."""
    key = ", ".join(f"{c.name} {row[prefix + c.name]!r:.40}" for c in table.primary_key)
    raise Unavailable(
        f"the store is damaged: table {table.name}, row {key}, is not what was written; stop the "
        "service and restore a copy of the store"
    )


@cache
def _empty(table: sa.Table) -> dict[str, Any]:
    return dict.fromkeys(table.columns.keys())


def as_stored(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what will be read again, of values that are written."""
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
    """Return the checksum of a whole row, whose values are as they will be, or were, read."""
    fixed, changing = _columns(table, prefix)
    content = list(fixed(row))
    while content and content[-1] is None:
        content.pop()
    for place, value in enumerate(content):
        if type(value) is bytes:
            content[place] = crc32(value)
    total = crc32(repr(content).encode())
    for name, key in changing:
        total += of_column(name, row[key])
    return total


@lru_cache(32_768)
def of_column(name: str, value: Any) -> int:
    """Return a changing column's part. What a value becomes is what the next change finds."""
    return 0 if value is None else crc32(repr((name, value)).encode())
