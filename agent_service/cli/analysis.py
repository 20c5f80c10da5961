"""The commands that ask what stored policies would have done, through a running service."""

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

# Policies are imported inside the commands: `--help` answers at once, and gRPC reads its settings
# from the environment when it is imported.


@click.command()
@agent_option
@click.argument("controller")
@click.option("--policy", type=Count(min=1), required=True, help="The policy version to replay.")
@click.option("--run", "run_id", default="", help="Only this run's.")
@click.option(
    "--against",
    type=Count(min=1),
    help="Another policy version to compare with; else what was decided.",
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

    Its mean action stands beside what was decided, both in the hyperparameters' own units. How far
    the two agree comes last; other formats than text tell it on standard error.
    """
    from agent_service.analysis.policies import read_policy
    from agent_service.analysis.replay import Replay

    check_output(form, output)
    with connect(agent) as client:
        other = None if against is None else read_policy(client, controller, against)
        course = Replay(read_policy(client, controller, policy), against=other)
        records = course.records(client.transitions(controller=controller, run_id=run_id))
        write_table(Table(records=records, fields=course.fields), form, output)
    _tell(itertools.starmap(_agreement_line, course.agreements().items()), form, output)


@click.command()
@agent_option
@click.argument("run")
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def agreement(agent: Target, *, run: str, form: Format, output: Path | None) -> None:
    """Show what a run ran under beside what was decided for it, chunk by chunk.

    Of a shadow run that is how far its script and the agent agree; of others, what was held while
    the agent was away, or limited. Values are in the hyperparameters' own units. How far the two
    agree comes last; other formats than text tell it on standard error.
    """
    from agent_service.analysis.applied import read_applied

    check_output(form, output)
    with connect(agent) as client:
        read = read_applied(client, run)
    write_table(read.table(), form, output)
    _tell(itertools.starmap(_agreement_line, read.agreements().items()), form, output)


def _agreement_line(name: str, agreement: Agreement) -> str:
    correlation = agreement.correlation
    return (
        f"{name}: mean difference {agreement.mean_difference:.4g} over {agreement.decisions} "
        f"decisions, correlation {'none' if correlation is None else format(correlation, '.3f')}, "
        f"{agreement.close:.1%} within {CLOSE:.0%} of the range"
    )


def _tell(lines: Iterable[str], form: Format, output: Path | None) -> None:
    """Write what a table comes to: after text, or apart from what another program reads."""
    for line in lines:
        echo(line, err=form is not Format.TEXT or output is not None)
