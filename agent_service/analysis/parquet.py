"""Tables as Parquet files, by pyarrow, an optional dependency."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_service.analysis.tables import Columns, FieldType, Record, Table, flat, with_columns
from agent_service.domain.errors import AgentError

GROUP_VALUES = 2**20
"""Maximum number of values in a row group: 8 MB of float64, some 32 MB as Python objects."""


class MissingLibrary(AgentError):
    """An optional dependency is not installed; the message says how to install it."""


def load_pyarrow() -> Any:
    """Import pyarrow with its compute and Parquet modules; raises MissingLibrary."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise MissingLibrary(
            "parquet needs pyarrow: pip install 'reinforced-regularization[parquet]'"
        ) from error
    return pyarrow


def write_parquet(table: Table, path: Path) -> None:
    """Write a table to `path`, one row group at a time; `FieldType.NUMBERS` as list columns.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """
    pyarrow = load_pyarrow()
    columns, records = with_columns(table)
    schema = _schema(pyarrow, table.fields, columns)
    rows = (_row(record, table.fields) for record in records)
    size = max(GROUP_VALUES // max(sum(map(len, columns.values())), 1), 1)
    with pyarrow.parquet.ParquetWriter(
        path, schema, compression="zstd", write_page_checksum=True
    ) as writer:
        while group := list(itertools.islice(rows, size)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def same_parquet(table: Table, path: Path) -> bool:
    """Whether a file, whose pages have checksums, has exactly the content of a table.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """
    pyarrow = load_pyarrow()
    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        found = (row for batch in file.iter_batches() for row in batch.to_pylist())
        records = (_row(record, table.fields) for record in table.records)
        return all(one == other for one, other in itertools.zip_longest(found, records))


def _schema(pyarrow: Any, fields: Mapping[str, FieldType], columns: Columns) -> Any:
    types = {
        FieldType.TEXT: pyarrow.string(),
        FieldType.INTEGER: pyarrow.int64(),
        FieldType.NUMBER: pyarrow.float64(),
        FieldType.FLAG: pyarrow.bool_(),
        FieldType.TIME: pyarrow.timestamp("us", tz="UTC"),
        FieldType.NUMBERS: pyarrow.list_(pyarrow.float64()),
        FieldType.NAMED: pyarrow.float64(),
    }
    return pyarrow.schema(
        (name, types[kind])
        for field, kind in fields.items()
        for name in ((field,) if kind is FieldType.NUMBERS else columns[field])
    )


def _row(record: Record, fields: Mapping[str, FieldType]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field, kind in fields.items():
        value = record[field]
        row |= {field: value} if kind is FieldType.NUMBERS else flat(field, kind, value)
    return row
