"""Tables: what is written is read back by other people's readers, to the bit."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.analysis.output import Format, replaced, write_table
from agent_service.analysis.parquet import GROUP_VALUES, write_parquet
from agent_service.analysis.tables import (
    FieldType,
    Record,
    Table,
    columns_of,
    csv_lines,
    json_lines,
    text_lines,
)

FIELDS = {
    "position": FieldType.INTEGER,
    "time": FieldType.TIME,
    "name": FieldType.TEXT,
    "explored": FieldType.FLAG,
    "reward": FieldType.NUMBER,
    "value": FieldType.NAMED,
    "state": FieldType.NUMBERS,
}
numbers = st.floats(allow_nan=False, allow_infinity=False)
records = st.fixed_dictionaries(
    {
        "position": st.integers(0, 2**63 - 1),
        "time": st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(
            lambda moment: moment.replace(tzinfo=UTC)
        ),
        "name": st.text('ab,"; -', min_size=1),
        "explored": st.booleans(),
        "reward": st.none() | numbers,
        "value": st.fixed_dictionaries({"dropout": numbers, "noise": st.none() | numbers}),
        "state": st.lists(numbers, min_size=3, max_size=3),
    }
)


def bits(number: float | None) -> str | None:
    return None if number is None else number.hex()


def cells(record: Record) -> list[Any]:
    """Return what a row must hold, numbers by their bits."""
    state = [bits(x) for x in record["state"]]
    values = [bits(record["value"][name]) for name in ("dropout", "noise")]
    scalars = [record[name] for name in ("position", "time", "name", "explored")]
    return [*scalars, bits(record["reward"]), *values, *state]


def from_text(cell: str) -> str | None:
    return bits(float(cell)) if cell else None


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(records, min_size=1, max_size=4))
def test_csv_comes_back_to_the_bit(rows: list[Record]) -> None:
    """By the standard library's reader; a missing number is an empty cell."""
    for line, row in zip(
        csv.DictReader(csv_lines(Table(records=rows, fields=FIELDS))), rows, strict=True
    ):
        assert line["time"].endswith("Z")
        scalars = [int(line["position"]), datetime.fromisoformat(line["time"]), line["name"]]
        named = ("reward", "value.dropout", "value.noise", "state.0", "state.1", "state.2")
        read = [*scalars, line["explored"] == "true", *(from_text(line[name]) for name in named)]
        assert read == cells(row)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(records, min_size=1, max_size=4))
def test_json_comes_back_to_the_bit(rows: list[Record]) -> None:
    """One object a line, times as ISO 8601 in UTC."""
    lines = list(json_lines(Table(records=rows, fields=FIELDS)))

    read = [json.loads(line) for line in lines]
    for record in read:
        record["time"] = datetime.fromisoformat(record["time"])
    assert list(map(cells, read)) == list(map(cells, rows))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(records, min_size=1, max_size=4))
def test_parquet_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Record]
) -> None:
    """By pyarrow, with typed columns: integers, UTC times, lists."""
    path = tmp_path_factory.mktemp("parquet") / "log.parquet"
    write_parquet(Table(records=rows, fields=FIELDS), path)

    read = pyarrow.parquet.read_table(path).to_pylist()
    for record in read:
        record["value"] = {name: record.pop(f"value.{name}") for name in ("dropout", "noise")}
    assert list(map(cells, read)) == list(map(cells, rows))


def row(value: dict[str, float], state: list[float]) -> Record:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    scalars = {"position": 1, "time": moment, "name": "x", "explored": False, "reward": 0.5}
    return {**scalars, "value": value, "state": state}


def test_several_forms_share_one_table() -> None:
    """It has each column of any row once, those of a field together; what a row lacks is empty."""
    rows = [row({"b": 1.0}, [1.0]), row({"a": 2.0, "b": 3.0}, [4.0, 5.0])]

    header, first, second = csv_lines(
        Table(records=rows, fields=FIELDS, columns=columns_of(rows, FIELDS))
    )

    assert header == "position,time,name,explored,reward,value.b,value.a,state.0,state.1"
    assert first == "1,2026-01-01T00:00:00.000000Z,x,false,0.5,1.0,,1.0,"
    assert second.endswith(",0.5,3.0,2.0,4.0,5.0")


def test_an_empty_table_has_a_header() -> None:
    """Of the columns that every record has."""
    (header,) = csv_lines(Table(records=[], fields=FIELDS))

    assert header == "position,time,name,explored,reward"


def test_text_is_aligned() -> None:
    """Columns begin below one another, also where numbers differ in length."""
    rows = [row({"a": 0.123456789}, [1.0]), row({"a": -1e-9}, [22.0])]

    header, first, second = text_lines(Table(records=rows, fields=FIELDS))

    assert header.index("value.a") == first.index("0.123457") == second.index("-1e-09")
    assert header.index("state.0") == first.rindex("1") == second.index("22")


def test_a_long_table_is_never_in_memory() -> None:
    """Each line is there before the next record is read."""
    taken = 0

    def endless() -> Iterator[Record]:
        nonlocal taken
        while True:
            taken += 1
            yield row({"a": 1.0}, [1.0])

    lines = csv_lines(Table(records=endless(), fields=FIELDS))
    assert next(lines)
    for count in range(1, 100):
        assert next(lines)
        assert taken == count


def test_parquet_is_written_in_row_groups(tmp_path: Path) -> None:
    """Rows of 20,000 numbers lie in groups of some million numbers, each written as it is full."""
    path = tmp_path / "log.parquet"
    state = [0.5] * 20_000
    write_parquet(Table(records=(row({}, state) for _ in range(120)), fields=FIELDS), path)

    shown = pyarrow.parquet.ParquetFile(path).metadata
    assert shown.num_rows == 120
    assert shown.num_row_groups == math.ceil(120 / (GROUP_VALUES // 20_005))


@pytest.mark.parametrize("form", [Format.CSV, Format.JSON, Format.PARQUET])
def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path, form: Format) -> None:
    """An error on the way leaves the old one as it was, and nothing beside it."""
    path = tmp_path / "log"
    path.write_text("old")

    def breaking() -> Iterator[Record]:
        yield row({"a": 1.0}, [1.0])
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        write_table(Table(records=breaking(), fields=FIELDS), form, path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]

    write_table(Table(records=[row({"a": 1.0}, [1.0])], fields=FIELDS), form, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() != b"old"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that it names is replaced."""
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_text("old")
    link.symlink_to(file)

    with replaced(link) as part:
        part.write_text("new")

    assert link.is_symlink()
    assert file.read_text() == "new"


def test_times_are_to_the_microsecond() -> None:
    """Also where the microseconds are 0, so that texts sort as times do."""
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=i) for i in (0, 1)]
    rows = [{**row({}, []), "time": moment} for moment in moments]

    texts = [json.loads(line)["time"] for line in json_lines(Table(records=rows, fields=FIELDS))]

    assert texts == ["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000001Z"]


def test_a_closed_standard_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has none then; the command's line says so."""
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OSError, match="standard output is closed"):
        write_table(Table(records=[], fields=FIELDS), Format.CSV, None)
