"""TensorBoard event files: each chunk once, across stops and kills."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer_service.runs.test_store import FINISHED, QUEUED, RUNNING, SUCCEEDED, chunk
from tests.trainer_service.specs import run_spec
from trainer_service.runs.run import EventContent
from trainer_service.runs.store import RunStore
from trainer_service.runs.tensorboard import EventFiles


def observe(folder: Path, store: RunStore, *events: EventContent) -> None:
    """Store and observe events as a service does, then close as if it were killed."""
    files = EventFiles(folder / "board", store)
    for what in events:
        store.append("r", what)
        files.observe("r", what)
    for writer in files._writers.values():
        writer.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    read = EventAccumulator(str(folder / "board" / "r"))
    read.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_a_runs_curves_are_its_chunks(tmp_path: Path) -> None:
    """Losses, scores and values by chunk, and the test scores at the best epoch."""
    with closing(RunStore(tmp_path / "runs.db")) as store:
        store.add("r", run_spec())
        observe(tmp_path, store, RUNNING, chunk(1), chunk(2), FINISHED, SUCCEEDED)

    assert scalars(tmp_path) == {
        "loss/train": [(1, (2.5 + 1 / 3) / 2), (2, (2.5 + 1 / 3) / 2)],
        "loss/validation": [(1, 2.0), (2, 2.0)],
        "score/train": [(1, 0.1), (2, 0.1)],
        "score/validation": [(1, 0.2), (2, 0.2)],
        "hyperparameter/dropout": [(1, 0.1 + 0.2), (2, 0.1 + 0.2)],
        "test/best": [(2, 0.9)],
        "test/last": [(2, 0.8)],
    }


def test_a_resumed_run_shows_each_chunk_once(tmp_path: Path) -> None:
    """One chunk was shown, one was only stored before a kill, and two follow."""
    with closing(RunStore(tmp_path / "runs.db")) as store:
        store.add("r", run_spec())
        observe(tmp_path, store, RUNNING, chunk(1))
        store.append("r", chunk(2))
        observe(tmp_path, store, QUEUED, RUNNING, chunk(3), QUEUED, RUNNING, chunk(4))

    assert [step for step, _loss in scalars(tmp_path)["loss/train"]] == [1, 2, 3, 4]


def test_a_folder_that_cannot_be_written_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and nothing is raised."""
    (tmp_path / "board").write_text("a file")
    with closing(RunStore(tmp_path / "runs.db")) as store:
        store.add("r", run_spec())
        observe(tmp_path, store, RUNNING, chunk(1), SUCCEEDED)

    assert "no event file of run r" in caplog.text
