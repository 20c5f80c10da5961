"""What our commands have in common: how they end."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.text import printable

T = TypeVar("T")

LONGEST_SECONDS: Final = 1e9
"""That an option takes; locks of threads wait no longer than ten times as long."""


class Count(click.IntRange):
    """A whole number of a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Return it; says which numbers it may be where it is none."""
        try:
            int(value)
        except ValueError:
            upto = " or more" if self.max is None else f" to {self.max}"
            self.fail(f"{value!r} is not a whole number of {self.min}{upto}.", param, context)
        number: int = super().convert(value, param, context)
        return number


class NewFile(click.Path):
    """A file to write, in a folder that is there."""

    def __init__(self) -> None:
        """Take any path that is not a folder's."""
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return its path, before anything is asked for that is to be written there."""
        path = Path(os.fsdecode(super().convert(value, param, context)))
        if not path.parent.is_dir():
            self.fail(f"'{path}': its folder is not there; make it first", param, context)
        return path


class Amount(click.FloatRange):
    """A finite number of a range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Return it; fails for NaN too, which is in every range."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{number} is not finite.", param, context)
        return number


class Commands(click.Group):
    """A group whose commands refuse a wrong value by its option, as click does; others pass."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command; raises BadParameter for an InvalidArgument of what was typed."""
        try:
            return super().invoke(context)
        except InvalidArgument as error:
            command = self.commands.get(context.invoked_subcommand or "", self)
            for violation in error.violations:
                if (parameter := _parameter(command, violation.field)) is not None:
                    raise click.BadParameter(violation.description, context, parameter) from error
            raise


def _parameter(command: click.Command, field: str) -> click.Parameter | None:
    """Return what a field is typed as: `spec.values[dropout]` is `values`; None for no option."""
    names = re.sub(r"\[.*?\]", "", field).split(".")
    by_name = {parameter.name: parameter for parameter in command.params}
    return next((by_name[name] for name in reversed(names) if name in by_name), None)


def run_command(cli: click.Group) -> None:
    """Run a command line and end the process.

    Exit code 0 on success, 130 on Ctrl-C, 2 on bad usage and 1 on failure, both with one line on
    stderr or, with `--debug`, a failure's traceback.
    """
    # gRPC's core writes lines of its own beside ours; what a person needs is in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _tell(cli, " ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except ValueError as error:
        number = str(error).removeprefix("Value out of range: ")  # protobuf's words
        if "--debug" in sys.argv or not number.lstrip("-").isdecimal():
            raise
        given = (f"{a} {b}" if a.startswith("-") else b for a, b in pairwise(sys.argv))
        found = next((text for text in given if number in text), number)
        _tell(cli, f"{found}: this number is out of range")
        sys.exit(2)
    except (AgentError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        _tell(cli, str(error))
        sys.exit(1)


def _tell(cli: click.Group, error: str) -> None:
    click.echo(f"{cli.name}: {printable(error)}", err=True)


def headed(rows: Iterable[T], *columns: str) -> Iterator[T]:
    """Pass rows on, under their columns' names on a terminal; scripts get the rows alone."""
    for place, row in enumerate(rows):
        if place == 0 and sys.stdout is not None and sys.stdout.isatty():
            echo("\t".join(columns))
        yield row


def echo(text: str, *, err: bool = False) -> None:
    """Print lines for a person; escape sequences in names of others are written out, not obeyed."""
    click.echo(printable(text, kept="\t\n"), err=err)
