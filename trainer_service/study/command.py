"""The work of `compare`, `report` and the demo, with their output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError
from agent_service.serving.access import Access
from trainer_service.client import TrainerClient
from trainer_service.study.report.evidence import number
from trainer_service.study.report.report import write_report
from trainer_service.study.report.suite_report import SuiteReport, write_suite_report
from trainer_service.study.results.over_problems import OverProblems, mean_scores
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.rows import MOMENTS
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.run.compare import Comparison
from trainer_service.study.run.part import WHOLE, Part
from trainer_service.study.run.progress import StudyProgress
from trainer_service.study.run.suite import Outcome, SuiteComparison
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import Suite
from trainer_service.study.terminal import Terminal

BUDGET_SECONDS = 30.0
"""For how long a service may be away before the study ends with an error."""


def run_study(
    spec: StudySpec | Suite,
    output: Path,
    *,
    agent: str,
    trainers: Sequence[str],
    access: Access = Access(),  # noqa: B008  # a value that never changes
    part: Part = WHOLE,
) -> None:
    """Run a study or suite, or a part of it, with live progress, then show its report.

    Agent and trainers are HOST:PORT; the token of `access` must be allowed to create controllers.
    Results in `output` are kept.

    Raises:
        AgentError: it failed; of a suite, a problem did.
    """
    options: dict[str, Any] = {
        "budget_seconds": BUDGET_SECONDS,
        "tls": access.tls,
        "token": access.token,
    }
    with ExitStack() as stack:
        services: dict[str, Any] = {
            "agent": stack.enter_context(AgentClient(agent, **options)),
            "trainers": [stack.enter_context(TrainerClient(each, **options)) for each in trainers],
        }
        if isinstance(spec, Suite):
            outcome = _run_suite(spec, SuiteFolder(output), part, services)
        else:
            outcome = _run_study(spec, ResultsFolder(output), part, services)
    if not outcome.is_finished:
        Terminal().print("the time is up; the same command goes on where this one stopped")
    if any(result.is_judged for folder in _folders(output) for result in folder.results()):
        _show(output)
    if outcome.failed:
        raise AgentError(outcome.failed_in_words())


def _run_study(
    spec: StudySpec, folder: ResultsFolder, part: Part, services: dict[str, Any]
) -> Outcome:
    comparison = Comparison(spec, folder, part=part, **services)
    comparison.check_agent()
    if SuiteFolder(folder.path).has_suite:
        raise AgentError(f"{folder.path} holds a study of several problems; give a new folder")
    with folder.held():
        comparison.open()
        with StudyProgress(Terminal(), part.planned_runs(spec)) as progress:
            return Outcome(is_finished=comparison.run(progress))


def _run_suite(suite: Suite, folder: SuiteFolder, part: Part, services: dict[str, Any]) -> Outcome:
    comparison = SuiteComparison(suite, folder, part=part, **services)
    comparison.check_agent()
    with folder.held():
        comparison.open()
        return comparison.run(Terminal(), _report_problem)


def _report_problem(folder: ResultsFolder) -> None:
    if any(result.is_judged for result in folder.results()):
        write_report(folder.path)


def _folders(path: Path) -> list[ResultsFolder]:
    """Return the folders of the studies that are in a folder."""
    suite = SuiteFolder(path)
    return [f for _, f in suite.begun()] if suite.has_suite else [ResultsFolder(path)]


def show_report(path: Path, data: Path | None = None) -> None:
    """Write the report of a study or suite, and show it; `data` is for pictures of images.

    Of a suite each problem's report is written, too.
    """
    if SuiteFolder(path).has_suite:
        for folder in _folders(path):
            if any(result.is_judged for result in folder.results()):
                write_report(folder.path, data)
    _show(path, data)


def _show(path: Path, data: Path | None = None) -> None:
    if SuiteFolder(path).has_suite:
        _show_suite(path)
    else:
        _show_study(path, data)


def _show_study(path: Path, data: Path | None) -> None:
    report = write_report(path, data)
    table = Table(title="Test macro F1, mean ± deviation over seeds")
    for heading in ("method", "seeds", *MOMENTS, "tuning children"):
        table.add_column(heading)
    for row in report.rows:
        scores = (number(row.scores[moment]) for moment in MOMENTS)
        table.add_row(row.entry.label, str(len(row.judged)), *scores, str(len(row.tuning)))
    _print([table], [report.page, report.text, path / "pictures", path / "results.jsonl"])


def _show_suite(path: Path) -> None:
    report = write_suite_report(path)
    tables = [_table_over_problems(report, moment) for moment in MOMENTS]
    _print(tables, [report.page, report.text, path / "pictures"])


def _table_over_problems(report: SuiteReport, moment: str) -> Table:
    """Return each method's mean over problems, and its differences to the references."""
    shown = [one for one in report.compared if one.moment == moment]
    references = {one.reference.name: one.reference for one in shown}
    table = Table(title=f"Test macro F1 over problems, {moment}; differences ± half their 95%")
    against = (f"against {reference.label(moment)}" for reference in references.values())
    for heading in ("method", "mean", *against):
        table.add_column(heading)
    means = mean_scores(report.problems, report.suite.methods, moment)
    for entry in report.suite.methods:
        found = {one.reference.name: one for one in shown if one.method.name == entry.name}
        mean = f"{means[entry.name]:.3f}" if entry.name in means else "-"
        table.add_row(entry.label, mean, *(_difference(found.get(name)) for name in references))
    return table


def _difference(one: OverProblems | None) -> str:
    if one is None:
        return "-"
    own = one.difference.student
    half = "" if own is None else f" ± {(own.high - own.low) / 2:.3f}"
    return f"{one.difference.mean:+.3f}{half}"


def _print(tables: Sequence[Table], paths: Sequence[Path]) -> None:
    console = Terminal()
    if not console.is_terminal:
        console.width = 110  # a file or pipe has no width of its own
    for table in tables:
        console.print(table)
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True)
