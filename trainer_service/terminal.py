"""A rich console whose texts are shown, never obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from agent_service.text import printable


class Terminal(Console):
    """Shows names and labels of strangers as they are: no markup, no escape sequence of theirs."""

    def __init__(self, **options: Any) -> None:
        """Take the options of rich's console."""
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text of a line or a table, before its width is measured."""
        return super().render_str(printable(text, kept="\t\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does; every text passes here, that of progress bars too."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text, kept="\t\n")
            yield segment._replace(text=text)
