"""What `watch` shows of a run."""

import io

from rich.console import Console

from tests.trainer_service.runs.test_store import CHUNK, FINISHED
from trainer_service.runs.run import Event, EventContent, Planned, RunState, StateChanged
from trainer_service.study.run.progress import RunProgress

HAPPENED: list[EventContent] = [
    StateChanged(state=RunState.QUEUED, cause="the service [stopped]"),
    Planned(chunks=1),
    CHUNK,
    FINISHED,
    StateChanged(state=RunState.SUCCEEDED),
]


def shown(*, is_terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=200)
    with RunProgress(console, "r") as progress:
        for index, what in enumerate(HAPPENED, start=1):
            progress.happened(Event(index=index, time=0.0, what=what))
    return text.getvalue()


def test_a_file_gets_a_line_for_each_event() -> None:
    """In order, and nothing else."""
    lines = shown(is_terminal=False).splitlines()

    assert lines[:2] == ["queued the service [stopped]", "1 chunks planned"]
    assert lines[2].startswith("chunk 1: loss 1.417")
    assert lines[3:] == ["test F1 0.900 (last 0.800)", "succeeded"]


def test_a_terminal_gets_a_bar_of_chunks() -> None:
    """Chunks move it; what else happens stands above it."""
    text = shown(is_terminal=True)

    assert "1/1" in text
    assert "loss 1.417" in text
    assert "chunk 1:" not in text
    assert "queued the service [stopped]" in text
