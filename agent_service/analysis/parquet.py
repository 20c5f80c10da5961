"""A table as a Parquet file, by pyarrow, which is an extra."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_service.analysis.tables import Columns, Kind, Record, Table, flat, with_columns
from agent_service.domain.errors import AgentError

GROUP_VALUES = 2**20
"""Values in one row group at the most: 8 MB of numbers, some 32 MB while they are Python's."""


class MissingLibrary(AgentError):
    """A library of an extra is not installed; the message says how to install it."""


def load_pyarrow() -> Any:
    """Return the module pyarrow, with what computes and knows Parquet; raises MissingLibrary."""
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
    """Write a table to `path`, row group by row group; `Kind.NUMBERS` as columns of lists.

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
    """Whether a file, whose pages have checksums, holds just what a table does.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """
    pyarrow = load_pyarrow()
    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        found = (row for batch in file.iter_batches() for row in batch.to_pylist())
        records = (_row(record, table.fields) for record in table.records)
        return all(one == other for one, other in itertools.zip_longest(found, records))


def _schema(pyarrow: Any, fields: Mapping[str, Kind], columns: Columns) -> Any:
    types = {
        Kind.TEXT: pyarrow.string(),
        Kind.INTEGER: pyarrow.int64(),
        Kind.NUMBER: pyarrow.float64(),
        Kind.FLAG: pyarrow.bool_(),
        Kind.TIME: pyarrow.timestamp("us", tz="UTC"),
        Kind.NUMBERS: pyarrow.list_(pyarrow.float64()),
        Kind.NAMED: pyarrow.float64(),
    }
    return pyarrow.schema(
        (name, types[kind])
        for field, kind in fields.items()
        for name in ((field,) if kind is Kind.NUMBERS else columns[field])
    )


def _row(record: Record, fields: Mapping[str, Kind]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field, kind in fields.items():
        value = record[field]
        row |= {field: value} if kind is Kind.NUMBERS else flat(field, kind, value)
    return row
