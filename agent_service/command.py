"""What our commands have in common: how they end."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import click

from agent_service.domain.errors import AgentError
from agent_service.text import printable


def run_command(cli: click.Group) -> None:
    """Run a command line and end the process.

    Exit code 0 on success, 2 on bad usage, 130 on Ctrl-C, and 1 on failure, with one line on stderr
    or, with `--debug`, a traceback.
    """
    # gRPC's core writes lines of its own beside ours; what a person needs is in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ValueError as error:
        number = str(error).removeprefix("Value out of range: ")  # protobuf's words
        if "--debug" in sys.argv or not number.lstrip("-").isdecimal():
            raise
        given = (f"{a} {b}" if a.startswith("-") else b for a, b in pairwise(sys.argv))
        found = next((text for text in given if number in text), number)
        click.echo(f"{cli.name}: {printable(found)}: this number is out of range", err=True)
        sys.exit(1)
    except (AgentError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"{cli.name}: {printable(str(error))}", err=True)
        sys.exit(1)


def echo(text: str, *, err: bool = False) -> None:
    """Print lines for a person; escape sequences in names of others are written out, not obeyed."""
    click.echo(printable(text, kept="\t\n"), err=err)
