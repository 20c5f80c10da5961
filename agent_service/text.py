"""Reading users' text and CSV files in any Unicode encoding; escaping text for terminals."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from agent_service.domain.errors import invalid

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; UTF-32 comes first, since its little-endian mark begins with UTF-16's."""


def encoding_of(head: bytes) -> str | None:
    """Return the encoding by a file's first bytes, UTF-8 without a mark; None if binary."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    return marked or (None if b"\0" in head else "utf-8")


def decoded(data: bytes) -> str:
    """Decode a small file's bytes; raises UnicodeDecodeError."""
    return data.decode(encoding_of(data) or "utf-8")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8, or as its byte order mark says, with universal newlines.

    Raises:
        InvalidArgument: the file has another encoding; also raised while it is read.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4096))
    if encoding is None:
        raise invalid(str(path), "is binary, or UTF-16 without a mark; save it as UTF-8")
    try:
        with path.open(encoding=encoding) as text:
            yield text
    except UnicodeError as error:
        kind = encoding.upper().removesuffix("-SIG")
        raise invalid(str(path), f"is not in {kind} ({_where(error)}); save it as UTF-8") from error


def _where(error: UnicodeError) -> str:
    if not isinstance(error, UnicodeDecodeError):
        return str(error)
    beside = error.object[max(0, error.start - 20) : error.start].decode("ascii", "replace")
    return f"a byte {error.object[error.start]:#x} after {beside!r}"


def read_text(path: Path) -> str:
    """Return a file's text; raises InvalidArgument as `open_text` does."""
    with open_text(path) as file:
        return file.read()


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the location of each row of a CSV file, and its cells by column.

    Column names are stripped, and those in `columns` match in any case. Empty rows, which editors
    and spreadsheets append, are skipped.

    Args:
        path: the file.
        columns: required columns.

    Raises:
        InvalidArgument: the file is malformed; names file and line.
    """
    import csv  # slow to import

    needed = {name.lower(): name for name in columns}
    with open_text(path) as file:
        lines = csv.reader(file)
        try:
            names = [needed.get(name.strip().lower(), name.strip()) for name in next(lines, [])]
            if not set(columns) <= set(names):
                raise invalid(str(path), f"has the columns {names}; {sorted(columns)} are required")
            for row in lines:
                place = f"{path}, line {lines.line_num}"
                cells = {name: cell for name, cell in zip(names, row, strict=False) if name}
                if not any(map(str.strip, row)):
                    continue
                if any(row[len(names) :]) or not set(columns) <= set(cells):
                    raise invalid(
                        place, f"has {len(row)} columns, not {len(names)}; is the file truncated?"
                    )
                yield place, cells
        except csv.Error as error:
            raise invalid(f"{path}, line {lines.line_num}", f"is not CSV: {error}") from error


def printable(text: str, *, kept: str = "\t") -> str:
    """Return text with control characters and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)
