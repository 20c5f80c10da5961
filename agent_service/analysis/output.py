"""Output of tables: streamed to standard output, or to a file that is replaced atomically."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import click

from agent_service.analysis.parquet import load_pyarrow, write_parquet
from agent_service.analysis.tables import Table, csv_lines, json_lines, text_lines
from agent_service.serving.command import NewFile, echo


class Format(StrEnum):
    """Output format of a table."""

    TEXT = "text"
    """Aligned columns for people, numbers to six digits."""
    JSON = "json"
    """One object per line."""
    CSV = "csv"
    PARQUET = "parquet"


_LINES: dict[Format, Callable[[Table], Iterator[str]]] = {
    Format.TEXT: text_lines,
    Format.JSON: json_lines,
    Format.CSV: csv_lines,
}


def format_options(*forms: Format) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the options of a command that writes a table; the first of `forms` is the default."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option(
            "--output",
            type=NewFile(),
            help="Write to this file, replaced when complete, instead of standard output.",
        )(command)
        return click.option(
            "--format",
            "form",
            type=click.Choice(forms, case_sensitive=False),
            default=forms[0],
            help="json: one object per line; parquet needs --output.",
        )(command)

    return add


def check_output(form: Format, output: Path | None) -> None:
    """Check the output options before anything is read.

    Raises:
        UsageError: a binary format without a file, or a file that cannot be replaced.
        MissingLibrary: the format needs a library that is not installed.
    """
    if output is not None and output.exists() and not output.is_file():
        raise click.UsageError(f"--output {output} is not a regular file; name a file")
    if form is Format.PARQUET:
        load_pyarrow()
        if output is None:
            raise click.UsageError("parquet is binary; name a file with --output")


def write_table(table: Table, form: Format, output: Path | None) -> None:
    """Write a table to standard output line by line, or to a file."""
    if output is None:
        if sys.stdout is None:
            raise OSError("the standard output is closed; redirect it")
        # Data that is piped must not be escaped.
        show = echo if form is Format.TEXT or sys.stdout.isatty() else click.echo
        for line in _LINES[form](table):
            show(line)
        return
    with replaced(output) as part:
        if form is Format.PARQUET:
            write_parquet(table, part)
        else:
            with part.open("w") as file:
                file.writelines(f"{line}\n" for line in _LINES[form](table))


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` at the end, and is removed on an error."""
    path = path.resolve()  # replaces a link's target, not the link
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
