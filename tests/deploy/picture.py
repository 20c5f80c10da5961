"""Draws panels of the dashboards, for who has no Grafana at hand: `make picture`, some minutes.

Runs a study through real services, scraped by a real Prometheus, and draws what the panels' own
queries answer. It is no picture of Grafana: colours, axes and layout are matplotlib's.
"""

import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.deploy.dashboards import DASHBOARDS, FOLDER, annotations, panels
from tests.deploy.prometheus import PrometheusProcess, of_services
from tests.end_to_end.processes import AgentProcess, TrainerProcess, command_of

STUDY = (
    "--dataset digits --subset 300 --label-noise 0.3 --width 0.0625 --chunks 40 --learning-runs 8 "
    "--rollout-size 40 --reward validation --methods rni,rd --seeds 1"
)
SHOWN = {
    "training.json": ["Loss", "Score", "Gap", "Hyperparameters", "Images a second"],
    "controllers.json": ["Mean action", "Mean reward", "Policy version", "Approximate KL"],
}
COLUMNS = 3
_ANY = {"__rate_interval": "20s"}
"""Values of the dashboards' variables; all others are set to everything."""


def main() -> None:
    """Run the study and write the picture beside the dashboards."""
    started = time.time()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        agent = stack.enter_context(AgentProcess(folder / "agent.db"))
        trainer = stack.enter_context(TrainerProcess(folder, agent=agent.address, parallel=2))
        prometheus = stack.enter_context(of_services(folder, agent=agent, trainer=trainer))
        command = [*command_of("trainer_service"), "compare", "--output", str(folder / "study")]
        command += ["--agent", agent.address, "--trainer", trainer.address, *STUDY.split()]
        subprocess.run(command, check=True, stdout=sys.stderr)
        figure = drawn(prometheus, start=started, end=time.time())
    path = FOLDER / "panels.png"
    figure.savefig(path, dpi=90)
    print(f"{path}: {time.time() - started:.0f} s of a study")


def drawn(prometheus: PrometheusProcess, *, start: float, end: float) -> Figure:
    """Return the panels of `SHOWN`, with the marks of new policies."""
    chosen = [
        panel
        for name, titles in SHOWN.items()
        for title in titles
        for panel in panels(DASHBOARDS[name])
        if panel["title"] == title
    ]
    matplotlib.rcParams |= {"font.size": 7, "axes.titlesize": 9, "lines.linewidth": 0.9}
    figure = Figure(figsize=(14, 3 * -(-len(chosen) // COLUMNS)), layout="constrained")
    axes = figure.subplots(-(-len(chosen) // COLUMNS), COLUMNS, squeeze=False).flat
    marks = _answers(prometheus, annotations(DASHBOARDS["controllers.json"])[0][1], start, end)
    for panel, ax in zip(chosen, axes, strict=True):
        _draw(ax, panel, prometheus, start, end)
        for moment in _begins(marks):
            ax.axvline(moment - start, color="purple", alpha=0.4, linewidth=0.7)
    return figure


def _begins(marks: list[Any]) -> set[float]:
    """Return when each stretch of moments begins, of the series of marks."""
    moments = {at for series in marks for at, _value in series["values"]}
    return {at for at in moments if at - 1 not in moments}


def _draw(ax: Axes, panel: Any, prometheus: PrometheusProcess, start: float, end: float) -> None:
    for target in panel["targets"]:
        for series in _answers(prometheus, target["expr"], start, end):
            # At each second, so that a curve ends where its run or its controller rests.
            told = {round(at - start): float(value) for at, value in series["values"]}
            times = range(min(told), max(told) + 1)
            values = [told.get(second, math.nan) for second in times]
            is_stepped = "lineInterpolation" in panel["fieldConfig"]["defaults"]["custom"]
            style = "steps-post" if is_stepped else "default"
            name = _name(target["legendFormat"], series["metric"])
            ax.plot(times, values, label=name, drawstyle=style)
    ax.set_title(panel["title"])
    ax.set_xlabel("seconds")
    ax.grid(alpha=0.3)
    if len(ax.lines) <= 6:
        ax.legend(fontsize=6)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels[found[1]], legend)


def _answers(prometheus: PrometheusProcess, expr: str, start: float, end: float) -> list[Any]:
    """Return the series of a query whose variables are filled, in steps of a second."""
    filled = re.sub(r"\$(\w+)(\|\$\w+)?", lambda found: _ANY.get(found[1], ".*"), expr)
    answer = prometheus.get("query_range", query=filled, start=start, end=end, step=1)
    series: list[Any] = answer["result"]
    return series


if __name__ == "__main__":
    main()
