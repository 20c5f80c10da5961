"""The report of a suite: its methods over all problems, with links to each problem's own report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.domain.errors import AgentError
from trainer_service.study.plain import shortened
from trainer_service.study.report import suite_sections
from trainer_service.study.report.flags import find_flags
from trainer_service.study.report.origin import find_missing
from trainer_service.study.report.page import Section, html_page, markdown
from trainer_service.study.report.suite_sections import ProblemState
from trainer_service.study.results.inside import write_inside
from trainer_service.study.results.over_problems import (
    OverProblems,
    ProblemResults,
    compare_over_problems,
)
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.study_file import FILE_NAME, as_toml
from trainer_service.study.suite import PICTURES, Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteReport:
    """A written report of a suite."""

    suite: Suite
    problems: tuple[ProblemResults, ...]
    """Those of which something is judged."""
    compared: tuple[OverProblems, ...]
    page: Path
    """HTML; its links lead to the problems' reports."""
    text: Path
    """The same as Markdown; its pictures are in `pictures/` beside it."""


def write_suite_report(path: Path) -> SuiteReport:
    """Write page, text and pictures into a suite's folder, from what is finished there.

    Equal results give equal files, but for the section of times.

    Raises:
        AgentError: where there is no suite, nothing of it is judged, or a file is a link.
    """
    folder = SuiteFolder(path)
    suite = folder.suite()
    found = {problem.name: results for problem, results in folder.begun()}
    problems, states = [], []
    for problem in suite.problems:
        begun = found.get(problem.name)
        results = [] if begun is None else begun.results()
        flagged = 0 if begun is None else len(find_flags(begun.study(), results))
        missing = find_missing(problem.study, results)
        states.append(ProblemState(name=problem.name, flagged=flagged, missing=missing))
        if any(result.is_judged for result in results):
            made = ProblemResults(name=problem.name, study=problem.study, results=results)
            problems.append(made)
    if not problems:
        raise AgentError(f"{path} has no judged run yet; let compare go on")
    compared = compare_over_problems(suite, problems)
    sections: list[Section] = [
        suite_sections.in_short(suite, problems, compared, states),
        suite_sections.scores(suite, problems),
        suite_sections.setting(suite, problems),
        *suite_sections.over_problems(compared),
        *suite_sections.by_problem(suite, problems, compared),
        suite_sections.flags(states),
        *suite_sections.origin(suite, problems),
        suite_sections.times(problems),
    ]
    for section in sections:
        for picture in section.pictures:
            write_inside(path, f"{PICTURES}/{picture.name}.png", picture.png)
    title = f"Study: {shortened(suite.title) or f'{len(suite.problems)} problems'}"
    page, text = html_page(title, sections), markdown(title, sections, pictures=PICTURES)
    write_inside(path, "report.html", page.encode())
    write_inside(path, "report.md", text.encode())
    write_inside(path, FILE_NAME, as_toml(suite).encode())
    return SuiteReport(
        suite=suite,
        problems=tuple(problems),
        compared=tuple(compared),
        page=path / "report.html",
        text=path / "report.md",
    )
