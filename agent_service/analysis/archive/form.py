"""The form of an archive file: Parquet, one row for each decision, the rows of a run together.

A row has all that the store has of a decision, its run and its controller, their checksums too.
Columns are the store's: a decision's by their own names, the others after `run_` and `controller_`.
Arrays are lists of float64, JSON objects are maps. One thing is otherwise than in the store: what a
report brought (`REPORTED`) stands in the row of the action that the reported chunk ran under. So
`reward` is what the row's own action earned, and is null where its chunk was never reported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from agent_service.analysis.archive.errors import ArchiveError
from agent_service.analysis.parquet import load_pyarrow
from agent_service.domain.retention import StoredRow
from agent_service.store.rows.checksums import checksum
from agent_service.store.rows.retention import TABLES
from agent_service.store.rows.rows import array_from_bytes, array_to_bytes

VERSION = "1"
VERSION_KEY = b"reinforced-regularization.archive"
"""In a file's metadata: the version of its form."""
REPORTED = ("applied", "training_score", "validation_score", "given_reward", "reward")
GROUP_ROWS = 5_000
"""Rows after which a row group ends with its run: a run is never in two of them."""

_SAME = {
    "decision_run_key": "run_key",
    "decision_controller_id": "controller_id",
    "run_controller_id": "controller_id",
}
"""Columns of the store that say what another one says."""
_LEFT_OUT = {*_SAME, "run_archive"}
_COLUMNS = {
    prefix + column.name: column
    for table, prefix in TABLES
    for column in table.columns
    if prefix + column.name not in _LEFT_OUT
}
"""Columns of the store's rows that are archived."""


def write_runs(path: Path, logs: Iterable[Sequence[StoredRow]]) -> None:
    """Write runs to a file, each with all its rows by chunk, sync it, and read it back.

    Raises:
        ArchiveError: it cannot be written, or is read otherwise than it was written.
        MissingLibrary: pyarrow is not installed.
    """
    pyarrow = load_pyarrow()
    schema = _schema(pyarrow)
    written = hashlib.sha256()
    try:
        with (
            path.open("wb") as file,
            pyarrow.parquet.ParquetWriter(
                file, schema, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for group in _groups(logs):
                _digest(written, group)
                writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
        sync(path)
    except pyarrow.ArrowException as error:
        raise ArchiveError(f"archive file {path}: {error}") from error
    found = hashlib.sha256()
    for group in _read_groups(path):
        _digest(found, group)
    if found.digest() != written.digest():
        raise ArchiveError(f"archive file {path} is read otherwise than written; see to its disk")


def read_runs(
    path: Path, *, controller: str = "", run_id: str = ""
) -> Iterator[Sequence[StoredRow]]:
    """Yield runs as the store had them, each with all its rows by chunk.

    Args:
        path: of the file.
        controller: only this one's runs; empty for all.
        run_id: only this run; empty for all.

    Raises:
        ArchiveError: the file is no archive, of a newer release, or damaged.
    """
    wanted = {"controller_name": controller, "run_id": run_id}
    for group in _read_groups(path, {name: text for name, text in wanted.items() if text}):
        for _, rows in groupby(group, key=lambda row: row["run_key"]):
            log = _to_store(list(rows))
            for row in log:
                _check(path, row)
            yield log


def read_run_ids(path: Path) -> set[str]:
    """Return the ids of the runs in a file; raises ArchiveError as `read_runs` does."""
    with _reading(path) as file:
        return set(file.read(columns=["run_id"])["run_id"].to_pylist())


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Give pyarrow's own reader of a file, and raise ArchiveError for what is wrong with it."""
    pyarrow = load_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_version(path, file.schema_arrow.metadata or {})
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise ArchiveError(f"archive file {path}: {text}; restore a copy of it") from error


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _groups(logs: Iterable[Sequence[StoredRow]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for log in logs:
        group += _from_store(log)
        if len(group) >= GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _digest(digest: Any, group: Iterable[Mapping[str, Any]]) -> None:
    for row in group:
        digest.update(repr(list(row.items())).encode())


def _read_groups(
    path: Path, wanted: Mapping[str, str] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Yield each row group, or the rows of it that have the wanted texts."""
    compute = load_pyarrow().compute
    with _reading(path) as file:
        for number in range(file.num_row_groups):
            if not _may_have(file, number, wanted or {}):
                continue
            table = file.read_row_group(number)
            for name, text in (wanted or {}).items():
                table = table.filter(compute.equal(table[name], text))
            yield [_plain(row) for row in table.to_pylist()]


def _check_version(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    version = metadata.get(VERSION_KEY)
    if version is None:
        raise ArchiveError(f"{path} is no archive of runs; leave it out of the archive's folder")
    if version.decode() != VERSION:
        raise ArchiveError(
            f"archive file {path} is of version {version.decode()}, this release reads {VERSION}; "
            "update this release"
        )


def _may_have(file: Any, number: int, wanted: Mapping[str, str]) -> bool:
    """Whether a row group's statistics allow for the wanted texts."""
    group = file.metadata.row_group(number)
    for place in range(group.num_columns):
        column = group.column(place)
        text, statistics = wanted.get(column.path_in_schema), column.statistics
        if text is None or statistics is None or not statistics.has_min_max:
            continue
        # Those of long texts may be cut, and then say less.
        if not statistics.min[:16] <= text[:16] <= statistics.max[:16]:
            return False
    return True


def _check(path: Path, row: StoredRow) -> None:
    for table, prefix in TABLES:
        stored = row[f"{prefix}checksum"]
        if stored is not None and checksum(table, row, prefix) != stored:
            raise ArchiveError(
                f"archive file {path}: position {row['decision_position']} is not what was "
                f"written (of table {table.name}); restore a copy of it"
            )


def _schema(pyarrow: Any) -> Any:
    numbers, texts = pyarrow.float64(), pyarrow.string()
    types = {
        sa.Integer: pyarrow.int64(),
        sa.BigInteger: pyarrow.int64(),
        sa.Text: texts,
        sa.Double: numbers,
        sa.Boolean: pyarrow.bool_(),
        sa.LargeBinary: pyarrow.list_(numbers),
        sa.JSON: pyarrow.map_(texts, numbers),
    }
    fields = [(_shown(name), types[type(c.type)]) for name, c in _COLUMNS.items()]
    named = dict(fields) | {"run_labels": pyarrow.map_(texts, texts)}
    return pyarrow.schema(list(named.items()), metadata={VERSION_KEY: VERSION})


def _shown(name: str) -> str:
    """Return what a column of the store's rows is called in the file."""
    return name.removeprefix("decision_")


def _from_store(log: Sequence[StoredRow]) -> Iterator[dict[str, Any]]:
    """Yield a run's rows as they are archived: each beside what its own chunk's report brought."""
    for row, following in zip(log, [*log[1:], {}], strict=True):
        archived = {_shown(name): _value(name, row[name]) for name in _COLUMNS}
        for name in REPORTED:
            archived[name] = _value(f"decision_{name}", following.get(f"decision_{name}"))
        yield archived


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return array_from_bytes(value).tolist()
    if isinstance(value, Mapping) and name != "run_labels":
        return {key: float(number) for key, number in value.items()}
    return value


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it was given to pyarrow, which gives maps back as lists of pairs."""
    maps = ("action", "applied", "run_labels")
    return row | {name: dict(row[name]) for name in maps if row[name] is not None}


def _to_store(archived: Sequence[Mapping[str, Any]]) -> list[StoredRow]:
    """Return a run's rows as the store had them."""
    log: list[StoredRow] = []
    before: Mapping[str, Any] = {}
    for shown in archived:
        # A column that a later release added is empty in a file from before.
        row = {name: shown.get(_shown(name)) for name in _COLUMNS}
        for name, value in row.items():
            if isinstance(value, list):
                row[name] = array_to_bytes(np.array(value, np.float64))
        for name in REPORTED:
            row[f"decision_{name}"] = before.get(name)
        row |= {name: row[other] for name, other in _SAME.items()} | {"run_archive": None}
        log.append(row)
        before = shown
    return log
