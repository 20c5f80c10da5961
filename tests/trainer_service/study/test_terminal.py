"""The console prints untrusted text without interpreting it."""

import io

from rich.progress import Progress, TextColumn
from rich.table import Table

from trainer_service.study.terminal import Terminal

NAME = "[red]a[/x] :smile: \x1b[31m\x1b]0;owned\x07"
SHOWN = r"[red]a[/x] :smile: \x1b[31m\x1b]0;owned\x07"


def test_untrusted_text_is_escaped() -> None:
    """In a line, a table and a progress bar, in a terminal with colours; our own styles work."""
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, width=120, highlight=False)
    table = Table()
    table.add_column(NAME)
    table.add_row(NAME)

    console.print(NAME, table, style="bold")
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(NAME)

    written = file.getvalue()
    assert written.count(SHOWN) == 3
    assert SHOWN[:20] in written.rpartition(SHOWN)[2]
    assert "\x1b[1m" in written
    assert "\x1b[31m" not in written
    assert "\x1b]0;" not in written
