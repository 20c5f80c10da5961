"""The command that writes the decision log, by a running service."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.analysis.output import Format, check_output, format_options, write_table
from agent_service.analysis.records import FIELDS, transition_record
from agent_service.analysis.tables import Table, columns_of
from agent_service.serving.access import Target, agent_option, connect
from agent_service.serving.command import Count

if TYPE_CHECKING:
    from agent_service.client import AgentClient


@click.command()
@agent_option
@click.option("--controller", default="", help="Only transitions of this controller.")
@click.option("--run", "run_id", default="", help="Only transitions of this run.")
@click.option(
    "--after",
    type=Count(min=0),
    default=0,
    help="Only transitions after this position of the log.",
)
@click.option("--follow", is_flag=True, help="Keep printing new ones as they come, until Ctrl-C.")
@format_options(Format.JSON, Format.CSV, Format.PARQUET)
def transitions(
    agent: Target,
    *,
    follow: bool,
    form: Format,
    output: Path | None,
    **which: Any,
) -> None:
    """Write the decision log: one record for each reported chunk, times in UTC.

    A table of several controllers has the columns of all; cells are empty for columns that the
    row's controller lacks. --follow survives restarts of the service without loss or repetition.
    """
    check_output(form, output)
    if follow and output is not None:
        raise click.UsageError("--follow never ends, so no file gets complete; use > FILE")
    is_of_one_form = any(which[name] for name in ("controller", "run_id")) or form is Format.JSON
    if follow and not is_of_one_form:
        raise click.UsageError(
            "a csv's columns depend on its controllers, and new ones may appear; follow one "
            "--controller or --run, or use json"
        )
    if follow:
        with connect(agent) as client:
            records = map(transition_record, client.follow_transitions(**which))
            write_table(Table(records=records, fields=FIELDS), form, output)
        return
    with connect(agent) as client:
        if is_of_one_form:
            table = Table(
                records=map(transition_record, client.transitions(**which)), fields=FIELDS
            )
        else:
            table = _whole_log(client, which["after"])
        write_table(table, form, output)


def _whole_log(client: AgentClient, after: int) -> Table:
    """Return the current log of all controllers; reads it twice, first for its columns."""
    last = after

    def read() -> Iterator[dict[str, Any]]:
        return (transition_record(t) for t in client.transitions(after=after))

    def up_to_last() -> Iterator[dict[str, Any]]:
        nonlocal last
        for record in read():
            last = max(last, record["position"])
            yield record

    columns = columns_of(up_to_last(), FIELDS)
    records = itertools.takewhile(lambda record: record["position"] <= last, read())
    return Table(records=records, fields=FIELDS, columns=columns)
