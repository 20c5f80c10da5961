"""What `compare`, `report` and the demo show a person."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent_service.client import AgentClient
from agent_service.connecting import Access
from trainer_service.client import TrainerClient
from trainer_service.study.compare import Comparison
from trainer_service.study.pictures import TITLES
from trainer_service.study.progress import StudyProgress
from trainer_service.study.report import spread, write_report
from trainer_service.study.results import ResultsFolder
from trainer_service.study.spec import StudySpec

BUDGET_SECONDS = 30.0
"""For how long a service may be away before the study ends with an error."""


def run_study(
    spec: StudySpec,
    output: Path,
    *,
    agent: str,
    trainers: Sequence[str],
    access: Access = Access(),  # noqa: B008  # a value that never changes
) -> None:
    """Run a study to its end with live progress, then show its report.

    Args:
        spec: the study.
        output: its folder; what is finished there is not done again.
        agent: HOST:PORT of the agent service.
        trainers: HOST:PORT of each trainer service.
        access: to all of them; the token is one that may create controllers.
    """
    options: dict[str, Any] = {
        "budget_seconds": BUDGET_SECONDS,
        "tls": access.tls,
        "token": access.token,
    }
    with ExitStack() as stack:
        agent_client = stack.enter_context(AgentClient(agent, **options))
        clients = [stack.enter_context(TrainerClient(address, **options)) for address in trainers]
        comparison = Comparison(spec, ResultsFolder(output), agent=agent_client, trainers=clients)
        with StudyProgress(Console(), comparison.stages) as progress:
            comparison.run(progress)
    show_report(output)


def show_report(folder: Path) -> None:
    """Write a study's report and show its table and paths."""
    report = write_report(ResultsFolder(folder))
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a file or pipe has no width of its own
    table = Table(title="Table 1 for this data: test macro F1, mean ± deviation over seeds")
    table.add_column("weights")
    for row in report.rows:
        table.add_column(TITLES[row.method])
    table.add_row("best epoch", *(spread(row.best) for row in report.rows))
    table.add_row("last", *(spread(row.last) for row in report.rows))
    console.print(table)
    for path in (report.table, *report.pictures, folder / "results.jsonl"):
        console.print(str(path), highlight=False, soft_wrap=True)
