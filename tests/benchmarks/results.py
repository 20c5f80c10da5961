"""Rounds of measures: progress while they run, tables at the end, and all figures as JSON."""

import asyncio
import inspect
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

FOLDER = Path("bench-results")

Figures = dict[str, float]
"""By name; times end in `_s`."""
Measure = Callable[[Path], Figures] | Callable[[Path], Awaitable[Figures]]
"""One round, given a folder of its own on this disk."""


@dataclass(frozen=True)
class Claim:
    """A claim: a figure and its bound."""

    what: str
    measured: float
    most: float | None = None
    least: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool:
        above = self.least is None or self.measured >= self.least
        return above and (self.most is None or self.measured <= self.most)

    @property
    def bound(self) -> str:
        if self.most is not None:
            return f"{self.most:g} {self.unit}".strip() + " at most"
        return f"{self.least:g} {self.unit}".strip() + " at least"


def show_rounds(
    name: str,
    measure: Measure,
    claims: Callable[[Figures], Sequence[Claim]],
    *,
    rounds: int,
) -> None:
    """Measure in rounds, show medians and claims, and write everything.

    Args:
        name: of the file.
        measure: one round.
        claims: what is claimed of the medians.
        rounds: how many.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    console = Console()
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "servers.log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # what servers say would tear the progress bar
    measured = asyncio.run(_rounds(measure, rounds, console))
    medians = {figure: statistics.median(r[figure] for r in measured) for figure in measured[0]}
    console.print(_figures(medians, measured))
    if found := claims(medians):
        console.print(_claims(found))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    content = {"machine": machine, "medians": medians, "rounds": measured}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=2))
    console.print(str(path))


async def _rounds(measure: Measure, rounds: int, console: Console) -> list[Figures]:
    """Measure in one event loop: gRPC goes on polling for one that has ended."""
    measured: list[Figures] = []
    for _ in track(range(rounds), "measuring", console=console):
        with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
            found: Any = await asyncio.to_thread(measure, Path(folder))
            measured.append(await found if inspect.isawaitable(found) else found)
    return measured


def _figures(medians: Figures, rounds: Sequence[Figures]) -> Table:
    table = Table(title=f"medians of {len(rounds)} rounds")
    for column in ("measure", "median", "lowest", "highest"):
        table.add_column(column)
    for name, median in medians.items():
        values = [r[name] for r in rounds]
        table.add_row(name, *(_shown(name, v) for v in (median, min(values), max(values))))
    return table


def _shown(name: str, value: float) -> str:
    if name.endswith("_s") and not name.endswith("per_s"):
        return f"{value * 1e3:.2f} ms"
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _claims(claims: Sequence[Claim]) -> Table:
    table = Table(title="claims")
    for column in ("claim", "measured", "bound", ""):
        table.add_column(column)
    for claim in claims:
        shown = f"{claim.measured:.3g} {claim.unit}".strip()
        table.add_row(claim.what, shown, claim.bound, "holds" if claim.holds else "missed")
    return table
