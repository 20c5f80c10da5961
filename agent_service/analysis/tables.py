"""Tables of records as JSON, CSV or aligned text, line by line.

Records are streamed: only as many are buffered as aligning text needs. Numbers in JSON and CSV read
back bit for bit. If a record lacks a column, the cell is empty.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any


class FieldType(Enum):
    """Type of a record's field; any single value may be None instead."""

    TEXT = auto()
    INTEGER = auto()
    NUMBER = auto()
    """A float64."""
    FLAG = auto()
    TIME = auto()
    """A datetime in UTC, with microseconds."""
    NUMBERS = auto()
    """Float64s in order: the columns FIELD.0, FIELD.1, ..."""
    NAMED = auto()
    """Float64s by name: the columns FIELD.NAME."""


Record = Mapping[str, Any]
"""Values by field."""
Columns = Mapping[str, Sequence[str]]
"""Column names by field, both in order."""

ALIGNED_BY = 200
"""Number of rows whose widths align a text table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Records with the same fields, read once as they are written."""

    records: Iterable[Record]
    fields: Mapping[str, FieldType]
    """Fields of each record, in order."""
    columns: Columns | None = None
    """None uses the first record's columns, if all have the same."""


def columns_of(records: Iterable[Record], fields: Mapping[str, FieldType]) -> Columns:
    """Return the columns of all `records`, for each field in order of appearance."""
    columns: dict[str, dict[str, None]] = {field: {} for field in fields}
    for record in records:
        for field, kind in fields.items():
            columns[field].update(dict.fromkeys(flat(field, kind, record[field])))
    scalars = {
        f: (f,) for f, kind in fields.items() if kind not in (FieldType.NUMBERS, FieldType.NAMED)
    }
    return {field: scalars.get(field) or tuple(names) for field, names in columns.items()}


def flat(field: str, kind: FieldType, value: Any) -> dict[str, Any]:
    """Return a field's cells by column."""
    if kind is FieldType.NAMED:
        return {f"{field}.{name}": number for name, number in value.items()}
    if kind is FieldType.NUMBERS:
        return {f"{field}.{place}": number for place, number in enumerate(value)}
    return {field: value}


def with_columns(table: Table) -> tuple[Columns, Iterator[Record]]:
    """Return a table's columns and records; reads the first record if that defines the columns."""
    records = iter(table.records)
    if table.columns is not None:
        return table.columns, records
    first = list(itertools.islice(records, 1))
    return columns_of(first, table.fields), itertools.chain(first, records)


def json_lines(table: Table) -> Iterator[str]:
    """Yield each record as a JSON object; times are ISO 8601."""
    for record in table.records:
        yield json.dumps(record, default=_iso, allow_nan=False)


def csv_lines(table: Table) -> Iterator[str]:
    """Yield a header, then each record as comma-separated values."""
    to_line = csv.writer(_Line(), lineterminator="")
    for row in _rows(table, empty=""):
        yield str(to_line.writerow(row))


class _Line:
    """A file whose `write` returns its argument, so that `writerow` returns the line."""

    def write(self, line: str) -> str:
        return line


def text_lines(table: Table) -> Iterator[str]:
    """Yield a header, then each record, as aligned text with numbers to six digits."""
    rows = _rows(table, empty="-", digits=6)
    sample = list(itertools.islice(rows, ALIGNED_BY))
    widths = [max(map(len, column)) for column in zip(*sample, strict=True)]
    for row in itertools.chain(sample, rows):
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _rows(table: Table, *, empty: str, digits: int | None = None) -> Iterator[list[str]]:
    """Yield the header, then each record's cells."""
    columns, records = with_columns(table)
    names = [name for field in columns.values() for name in field]
    yield names
    for record in records:
        cells: dict[str, Any] = {}
        for field, kind in table.fields.items():
            cells |= flat(field, kind, record[field])
        yield [_cell(cells.get(name), empty, digits) for name in names]


def _cell(value: Any, empty: str, digits: int | None) -> str:
    if value is None:
        return empty
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, float):
        # repr is the shortest decimal that reads back as the same float64.
        return repr(value) if digits is None else f"{value:.{digits}g}"
    return str(value)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
