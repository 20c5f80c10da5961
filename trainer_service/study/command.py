"""The work of `compare`, `report` and the demo, with their output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

from agent_service.client import AgentClient
from agent_service.serving.access import Access
from trainer_service.client import TrainerClient
from trainer_service.study.report.evidence import number
from trainer_service.study.report.report import write_report
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.rows import MOMENTS
from trainer_service.study.run.compare import WHOLE, Comparison, Part
from trainer_service.study.run.progress import StudyProgress
from trainer_service.study.spec import StudySpec
from trainer_service.study.terminal import Terminal

BUDGET_SECONDS = 30.0
"""For how long a service may be away before the study ends with an error."""


def run_study(
    spec: StudySpec,
    output: Path,
    *,
    agent: str,
    trainers: Sequence[str],
    access: Access = Access(),  # noqa: B008  # a value that never changes
    part: Part = WHOLE,
) -> None:
    """Run a study or a part of it with live progress, then show its report.

    Agent and trainers are HOST:PORT; the token of `access` must be allowed to create controllers.
    Results in `output` are kept.
    """
    options: dict[str, Any] = {
        "budget_seconds": BUDGET_SECONDS,
        "tls": access.tls,
        "token": access.token,
    }
    folder = ResultsFolder(output)
    planned = {
        entry.name: (entry.label, entry.tuned_children(spec) + len(part.judged(spec)))
        for entry in part.methods(spec)
    }
    with ExitStack() as stack:
        agent_client = stack.enter_context(AgentClient(agent, **options))
        clients = [stack.enter_context(TrainerClient(address, **options)) for address in trainers]
        comparison = Comparison(spec, folder, agent=agent_client, trainers=clients, part=part)
        comparison.check_agent()
        stack.enter_context(folder.held())
        comparison.open()
        with StudyProgress(Terminal(), planned) as progress:
            is_finished = comparison.run(progress)
    if not is_finished:
        Terminal().print("the time is up; the same command goes on where this one stopped")
    if any(result.is_judged for result in folder.results()):
        show_report(output)


def show_report(folder: Path, data: Path | None = None) -> None:
    """Write a study's report and show its table and paths; `data` is for pictures of images."""
    report = write_report(folder, data)
    console = Terminal()
    if not console.is_terminal:
        console.width = 110  # a file or pipe has no width of its own
    table = Table(title="Test macro F1, mean ± deviation over seeds")
    for heading in ("method", "seeds", *MOMENTS, "tuning children"):
        table.add_column(heading)
    for row in report.rows:
        scores = (number(row.scores[moment]) for moment in MOMENTS)
        table.add_row(row.entry.label, str(len(row.judged)), *scores, str(len(row.tuning)))
    console.print(table)
    for path in (report.page, report.text, folder / "pictures", folder / "results.jsonl"):
        console.print(str(path), highlight=False, soft_wrap=True)
