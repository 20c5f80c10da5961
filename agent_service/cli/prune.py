"""The command that archives old runs, with or without a running service."""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.analysis.tables import FieldType, Table, text_lines
from agent_service.domain.checks import cut
from agent_service.serving.command import LONGEST_SECONDS, echo

if TYPE_CHECKING:
    from agent_service.analysis.prune import Plan

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class _Age(click.ParamType[float]):
    """Option type: a time span such as 30d, converted to seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))
        seconds = float(found[1]) * _SECONDS[found[2]] if found else math.inf
        if seconds > LONGEST_SECONDS:
            self.fail(f"{cut(value)!r} is not an age; write e.g. 30d, 12h or 8w", param, context)
        return seconds


def prune_options(command: Any) -> Any:
    """Add the options of `prune`, except for those of the store."""
    archive = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--dry-run", is_flag=True, help="Only show what would be pruned."),
        click.option(
            "--archive",
            type=archive,
            required=True,
            help="Folder for the Parquet files; created if missing.",
        ),
        click.option(
            "--older-than",
            type=_Age(),
            required=True,
            help="Age of the last call of runs to prune, e.g. 30d; units s, m, h, d, w.",
        ),
    ):
        command = option(command)
    return command


def prune_store(url: str, *, older_than: float, archive: Path, dry_run: bool) -> None:
    """Archive the old runs of a store, and print a summary.

    Raises:
        AgentError: the store or the archive cannot be used; nothing is lost.
    """
    from agent_service.analysis.parquet import load_pyarrow
    from agent_service.analysis.prune import Pruner, make_plan
    from agent_service.store.store import SqlStore, require_store

    load_pyarrow()
    require_store(url)
    before = time.time() - older_than
    with SqlStore(url) as store:
        if dry_run:
            _print_plan(make_plan(store, before=before), "would go")
            return
        pruner = Pruner(store, archive)
        with pruner.pruning() as elsewhere:
            for name in elsewhere:
                echo(
                    f"the store still has decisions that were pruned into {name}, which is not in "
                    f"{archive}: unless a prune is running there, prune into its folder again",
                    err=True,
                )
            plan = make_plan(store, before=before)
            size = _size(archive)
            with click.progressbar(
                length=2 * plan.decisions,
                label="archive, delete",
                file=sys.stderr,
                hidden=not sys.stderr.isatty(),
            ) as bar:
                stayed = pruner.prune(plan, progress=bar.update)
            plan.leave(stayed)
            _print_plan(plan, "went")
            echo(f"{_bytes(_size(archive) - size)} were added to {archive}")


def _print_plan(plan: Plan, what: str) -> None:
    shares = plan.shares()
    records = [
        {"controller": name, "runs": s.runs, "transitions": s.transitions, "bytes": s.size}
        for name, s in sorted(shares.items())
    ]
    total = {
        "controller": f"{what} in all",
        "runs": len(plan.going),
        "transitions": plan.decisions - len(plan.going),
        "bytes": sum(run.size for run in plan.going),
    }
    fields = {"controller": FieldType.TEXT} | dict.fromkeys(list(total)[1:], FieldType.INTEGER)
    for line in text_lines(Table(records=[*records, total], fields=fields)):
        echo(line)
    for reason, count in sorted(plan.staying.items()):
        echo(f"old runs that stay: {count}, {reason}")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
