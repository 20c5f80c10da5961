"""Commands that compare logged decisions with policies and applied values, by a running service."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent_service.analysis.agreement import CLOSE
from agent_service.analysis.output import Format, check_output, format_options, write_table
from agent_service.analysis.tables import Table
from agent_service.serving.access import Target, agent_option, connect
from agent_service.serving.command import Count, echo

if TYPE_CHECKING:
    from agent_service.analysis.agreement import Agreement

# Policies are imported inside the commands, so that `--help` is fast, and since gRPC reads the
# environment when it is imported.


@click.command()
@agent_option
@click.argument("controller")
@click.option("--policy", type=Count(min=1), required=True, help="The policy version to replay.")
@click.option("--run", "run_id", default="", help="Only decisions of this run.")
@click.option(
    "--against",
    type=Count(min=1),
    help="Compare with this policy version, instead of with the logged decisions.",
)
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def replay(
    agent: Target,
    *,
    controller: str,
    policy: int,
    run_id: str,
    against: int | None,
    form: Format,
    output: Path | None,
) -> None:
    """Show what a policy version would have decided on the states of the log.

    Its mean actions are shown beside the decided values, in the hyperparameters' own units. A
    summary of their agreement comes last; with formats other than text, on standard error.
    """
    from agent_service.analysis.replay import Replay, read_policy

    check_output(form, output)
    with connect(agent) as client:
        other = None if against is None else read_policy(client, controller, against)
        course = Replay(read_policy(client, controller, policy), against=other)
        records = course.records(client.transitions(controller=controller, run_id=run_id))
        write_table(Table(records=records, fields=course.fields), form, output)
    _print_summary(itertools.starmap(_agreement_line, course.agreements().items()), form, output)


@click.command()
@agent_option
@click.argument("run")
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def agreement(agent: Target, *, run: str, form: Format, output: Path | None) -> None:
    """Show the values that a run ran under beside the decided ones, chunk by chunk.

    For a shadow run this is the agreement of its script and the agent; for others it shows values
    that were kept while the agent was away, or limited. Values are in the hyperparameters' own
    units. A summary comes last; with formats other than text, on standard error.
    """
    from agent_service.analysis.agreement import read_applied

    check_output(form, output)
    with connect(agent) as client:
        read = read_applied(client, run)
    write_table(read.table(), form, output)
    _print_summary(itertools.starmap(_agreement_line, read.agreements().items()), form, output)


def _agreement_line(name: str, agreement: Agreement) -> str:
    correlation = agreement.correlation
    return (
        f"{name}: mean difference {agreement.mean_difference:.4g} over {agreement.decisions} "
        f"decisions, correlation {'none' if correlation is None else format(correlation, '.3f')}, "
        f"{agreement.close:.1%} within {CLOSE:.0%} of the range"
    )


def _print_summary(lines: Iterable[str], form: Format, output: Path | None) -> None:
    """Print a table's summary: after a text table, else on standard error."""
    for line in lines:
        echo(line, err=form is not Format.TEXT or output is not None)
