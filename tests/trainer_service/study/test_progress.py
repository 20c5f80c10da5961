"""`watch` shows a run's progress, `compare` that of a study, and of a suite."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from agent_service.domain.errors import AgentError
from tests.trainer_service.runs.test_store import CHUNK, FINISHED
from tests.trainer_service.study.simulated import TRAINING
from trainer_service.runs.run import Event, EventContent, Planned, RunState, StateChanged
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.run.part import WHOLE
from trainer_service.study.run.progress import RunProgress
from trainer_service.study.run.suite_progress import SuiteProgress, in_words
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import Suite, SuiteProblem

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


def suite_of(*chunks: int) -> Suite:
    """Return problems `p0`, `p1` ... of two runs each, of so many chunks."""
    methods = (Fixed(name="d", method="d"),)
    studies = [
        StudySpec(seeds=2, training=replace(TRAINING, chunks=count), methods=methods)
        for count in chunks
    ]
    return Suite(problems=tuple(SuiteProblem(name=f"p{n}", study=s) for n, s in enumerate(studies)))


def test_the_time_left_is_by_what_runs_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 10, 20 and 40 chunks; the first problem was finished before, and counts for no speed.

    The second's two runs take ten minutes: the third's take twice as long.
    """
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file = io.StringIO()
    chosen = WHOLE.chosen(suite_of(10, 20, 40))
    suite = SuiteProgress(Console(file=file, width=200), chosen, {"p0": 2, "p1": 0, "p2": 0})

    for name in ("p0", "p1", "p2"):
        suite.begins(name)
        with suite.study(name) as study:
            for seed in range(2):
                study.finished(Key(method="d", phase=Phase.JUDGED, index=seed), FINISHED)
                now += 300.0 * (name == "p1")

    lines = [line for line in file.getvalue().splitlines() if line.startswith("problem")]
    assert lines == [
        "problem 1 of 3: p0",
        "problem 2 of 3: p1",
        "problem 3 of 3: p2, about 20 min left",
    ]


def test_a_terminal_gets_a_bar_of_all_problems() -> None:
    """Above those of the methods; a problem that failed is not waited for."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200)
    suite = SuiteProgress(console, WHOLE.chosen(suite_of(10, 10)), {"p0": 1, "p1": 0})

    suite.begins("p0")
    with suite.study("p0"):
        pass
    assert "all problems" in file.getvalue()
    assert "1/4 runs" in file.getvalue()
    suite.failed("p0", AgentError("no data"))
    suite.begins("p1")
    with suite.study("p1"):
        pass

    assert "p0 failed: no data" in file.getvalue()
    assert "2/4 runs" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "1 min"), (299, "5 min"), (3600, "1 h"), (7500, "2 h 5 min")]
)
def test_times_are_in_words(seconds: float, words: str) -> None:
    """To the minute."""
    assert in_words(seconds) == words
