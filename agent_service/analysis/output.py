"""Where a table goes: to standard output as it comes, or to a file once it is whole."""

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
    """The form that a table is written in."""

    TEXT = "text"
    """Aligned columns for people, numbers to six digits."""
    JSON = "json"
    """One object a line."""
    CSV = "csv"
    PARQUET = "parquet"


_LINES: dict[Format, Callable[[Table], Iterator[str]]] = {
    Format.TEXT: text_lines,
    Format.JSON: json_lines,
    Format.CSV: csv_lines,
}


def format_options(*forms: Format) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the options of a command that writes a table, by default in the first of `forms`."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option(
            "--output",
            type=NewFile(),
            help="A file, replaced once it is whole; else standard output.",
        )(command)
        return click.option(
            "--format",
            "form",
            type=click.Choice(forms, case_sensitive=False),
            default=forms[0],
            help="json: one object a line; parquet needs --output.",
        )(command)

    return add


def check_output(form: Format, output: Path | None) -> None:
    """Check that a table can be written so, before anything is read.

    Raises:
        UsageError: a binary form without a file, or a file that cannot be replaced.
        MissingLibrary: the form needs a library that is not installed.
    """
    if output is not None and output.exists() and not output.is_file():
        raise click.UsageError(f"--output {output} is no regular file; name one, or a new one")
    if form is Format.PARQUET:
        load_pyarrow()
        if output is None:
            raise click.UsageError("parquet is no text; name a file with --output")


def write_table(table: Table, form: Format, output: Path | None) -> None:
    """Write a table to standard output, each line at once, or (not None) to a file."""
    if output is None:
        # What a pipe takes on as data stays as it is.
        if sys.stdout is None:
            raise OSError("the standard output is closed; send it somewhere")
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
    """Give a file beside `path` that takes its place at the end, and is removed at an error."""
    path = path.resolve()  # the file that a link names is replaced, not the link
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
