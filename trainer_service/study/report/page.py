"""A report's sections as one self-contained HTML page, and as Markdown beside picture files."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from agent_service.text import printable
from trainer_service.study.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells of text."""

    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()
    """Cells that stand out, by row and column."""
    folders: tuple[str, ...] = ()
    """By row, the folder of the report that its first cell leads to; empty for none."""

    def leads_to(self, row: int, column: int) -> str:
        """Return the folder of the report that a cell leads to; empty for none."""
        return "".join(self.folders[row : row + 1]) if column == 0 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG."""

    name: str
    """Name of its file, without the suffix; unique in the report."""
    png: bytes
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report."""

    title: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""
    """Shown as it is."""
    is_folded: bool = False
    """Whether a reader opens it first: for long tables."""


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page; it needs no other file and no network."""
    environment = Environment(
        loader=PackageLoader("trainer_service.study", "templates"),
        autoescape=True,
        finalize=lambda value: printable(value, kept="\t\n") if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["anchor"] = lambda title: "-".join(re.findall(r"[a-z0-9]+", title.lower()))
    return environment.get_template("report.html").render(title=title, sections=sections)


def markdown(title: str, sections: Sequence[Section], *, pictures: str) -> str:
    """Return the same as Markdown, with links to files in the folder `pictures`."""
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts.append(f"## {_escaped(section.title)}")
        parts.extend(map(_escaped, section.text))
        for table in section.tables:
            parts.append(_table(table))
        if section.code:
            parts.append(f"```\n{section.code}\n```")
        parts.extend(f"![{_escaped(p.caption)}]({pictures}/{p.name}.png)" for p in section.pictures)
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    cells = [
        [_cell(table, row, column) for column in range(len(line))]
        for row, line in enumerate(table.cells)
    ]
    rows = [map(_escaped, table.headings), ("---",) * len(table.headings), *cells]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*([f"{_escaped(table.caption)}\n"] if table.caption else []), *lines])


def _cell(table: Table, row: int, column: int) -> str:
    text = _escaped(table.cells[row][column])
    if (row, column) in table.strong:
        return f"**{text}**"
    folder = table.leads_to(row, column)
    return f"[{text}]({folder}/report.md)" if folder else text


def _escaped(text: str) -> str:
    """Return text in a line of Markdown that shows it as it is: no HTML, link, code or formula."""
    return _MARKS.sub(r"\\\g<0>", plain(text))


_MARKS = re.compile(r"[\\`*_\[\]<>|$~&]")
