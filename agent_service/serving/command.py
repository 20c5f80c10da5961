"""Kit of the command lines: option types, error reporting, exit codes, output."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.text import printable

T = TypeVar("T")

LONGEST_SECONDS: Final = 1e9
"""Maximum of options in seconds; threading's locks cannot wait ten times as long."""


class Count(click.IntRange):
    """Option type: a whole number in a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Return the number, or fail naming the allowed range."""
        try:
            int(value)
        except ValueError:
            upto = " or more" if self.max is None else f" to {self.max}"
            self.fail(f"{value!r} is not a whole number of {self.min}{upto}.", param, context)
        number: int = super().convert(value, param, context)
        return number


class NewFile(click.Path):
    """Option type: a file to write in an existing folder."""

    def __init__(self) -> None:
        """Accept any path that is not a folder."""
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the path, or fail before any work is done for its content."""
        path = Path(os.fsdecode(super().convert(value, param, context)))
        if not path.parent.is_dir():
            self.fail(f"'{path}': its folder does not exist; create it first", param, context)
        return path


class Amount(click.FloatRange):
    """Option type: a finite number in a range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Return the number; fails for NaN too, which click accepts in any range."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{number} is not finite.", param, context)
        return number


class Commands(click.Group):
    """A command group that reports InvalidArgument for the option that caused it, as click does."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command; an InvalidArgument for one of its options becomes a BadParameter."""
        try:
            return super().invoke(context)
        except InvalidArgument as error:
            command = self.commands.get(context.invoked_subcommand or "", self)
            for violation in error.violations:
                if (parameter := _parameter(command, violation.field)) is not None:
                    raise click.BadParameter(violation.description, context, parameter) from error
            raise


def _parameter(command: click.Command, field: str) -> click.Parameter | None:
    """Return the option for a field (`spec.values[dropout]` is `values`), or None."""
    names = re.sub(r"\[.*?\]", "", field).split(".")
    by_name = {parameter.name: parameter for parameter in command.params}
    return next((by_name[name] for name in reversed(names) if name in by_name), None)


def field_options(
    defaults: Any, name: str, options: dict[str, dict[str, Any]], *, prefix: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options for the fields of a dataclass to a command.

    Args:
        defaults: an instance of the dataclass, with the options' defaults.
        name: the command's parameter for the dataclass that is made of the options.
        options: attributes of `click.option` by field.
        prefix: what the options' names have before the field's.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            values = {field: given.pop(prefix + field) for field in options}
            return command(**{name: type(defaults)(**values)}, **given)

        wrapped: Callable[..., Any] = run
        for field, attributes in reversed(options.items()):
            option = f"--{prefix}{field}".replace("_", "-")
            wrapped = click.option(option, default=getattr(defaults, field), **attributes)(wrapped)
        return wrapped

    return add


def run_command(cli: click.Group) -> None:
    """Run a command line and exit the process.

    Exit code 0 on success, 130 on Ctrl-C, 2 on bad usage and 1 on failure, the last two with one
    line on stderr; with `--debug` a failure prints its traceback.
    """
    # gRPC's core would log beside our one line, which has all that a person needs.
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
        _print_error(cli, " ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except ValueError as error:
        number = str(error).removeprefix("Value out of range: ")  # protobuf's message
        if "--debug" in sys.argv or not number.lstrip("-").isdecimal():
            raise
        given = (f"{a} {b}" if a.startswith("-") else b for a, b in pairwise(sys.argv))
        found = next((text for text in given if number in text), number)
        _print_error(cli, f"{found}: this number is out of range")
        sys.exit(2)
    except (AgentError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        _print_error(cli, str(error))
        sys.exit(1)


def _print_error(cli: click.Group, error: str) -> None:
    click.echo(f"{cli.name}: {printable(error)}", err=True)


def headed(rows: Iterable[T], *columns: str) -> Iterator[T]:
    """Yield rows, printing a header before the first on a terminal; scripts get rows alone."""
    for place, row in enumerate(rows):
        if place == 0 and sys.stdout is not None and sys.stdout.isatty():
            echo("\t".join(columns))
        yield row


def echo(text: str, *, err: bool = False) -> None:
    """Print text with control characters escaped, since names may come from strangers."""
    click.echo(printable(text, kept="\t\n"), err=err)
