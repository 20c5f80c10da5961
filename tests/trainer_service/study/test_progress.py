"""`watch` shows a run's progress."""

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


def test_a_terminal_gets_a_bar_of_chunks() -> None:
    """Chunks move it; what else happens stands above it."""
    file = io.StringIO()
    with RunProgress(Console(file=file, force_terminal=True, width=200), "r") as progress:
        for index, what in enumerate(HAPPENED, start=1):
            progress.happened(Event(index=index, time=0.0, what=what))

    text = file.getvalue()
    assert "1/1" in text
    assert "loss 1.417" in text
    assert "chunk 1:" not in text
    assert "queued the service [stopped]" in text
