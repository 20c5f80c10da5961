"""A rich console that escapes control sequences and ignores markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from agent_service.text import printable


class Terminal(Console):
    """Prints untrusted names and labels safely: without markup, escape sequences written out."""

    def __init__(self, **options: Any) -> None:
        """Accept the options of rich's console."""
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape the text of a line or table cell, before its width is measured."""
        return super().render_str(printable(text, kept="\t\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, with every text escaped, also of progress bars."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text, kept="\t\n")
            yield segment._replace(text=text)
