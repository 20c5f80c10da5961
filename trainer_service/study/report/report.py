"""The report of a study: its results, and the data, code and versions that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.domain.errors import AgentError
from trainer_service.study.plain import shortened
from trainer_service.study.report import evidence
from trainer_service.study.report.flags import find_flags
from trainer_service.study.report.in_short import in_short
from trainer_service.study.report.looking import where_children_look
from trainer_service.study.report.origin import find_missing, flags, origin, times
from trainer_service.study.report.page import Section, html_page, markdown
from trainer_service.study.results.inside import write_inside
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.rows import Row, make_rows
from trainer_service.study.study_file import FILE_NAME, as_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A written report."""

    rows: tuple[Row, ...]
    page: Path
    """Self-contained HTML."""
    text: Path
    """The same as Markdown; its pictures are in `pictures/` beside it."""


def write_report(path: Path, data: Path | None = None) -> Report:
    """Write page, text and pictures into a study's folder, from what is finished there.

    Equal results give equal files, whatever their order, but for the section of times.

    Args:
        path: the study's folder.
        data: folder of the data sets, for Grad-CAM, which weights of children are needed for, too.

    Raises:
        AgentError: where there is no study, nothing of it is judged, or a file is a link.
    """
    folder = ResultsFolder(path)
    study, results = folder.study(), folder.results()
    rows = make_rows(study.spec, results)
    if not rows:
        raise AgentError(f"{path} has no judged run yet; let compare go on")
    flagged, missing = find_flags(study, results), find_missing(study.spec, results)
    sections: list[Section] = [
        in_short(study.spec, rows, flagged=len(flagged), missing=missing),
        *evidence.at_the_end(study.spec, rows, {key.method for key in flagged}),
        *evidence.budget(rows),
        *evidence.next_problem(rows),
        *evidence.why(rows),
        *evidence.course(rows),
        *evidence.policies(rows),
        *([] if data is None else [where_children_look(study.spec, rows, folder, data)]),
        flags(flagged, missing, count=len(results)),
        *origin(study, results, flagged),
        times(study.spec, rows, results),
    ]
    title = study.spec.title or study.spec.training.dataset
    for section in sections:
        for picture in section.pictures:
            write_inside(path, f"pictures/{picture.name}.png", picture.png)
    title = f"Study: {shortened(title)}"
    page, text = html_page(title, sections), markdown(title, sections, pictures="pictures")
    write_inside(path, "report.html", page.encode())
    write_inside(path, "report.md", text.encode())
    write_inside(path, FILE_NAME, as_toml(study.spec).encode())
    return Report(rows=tuple(rows), page=path / "report.html", text=path / "report.md")
