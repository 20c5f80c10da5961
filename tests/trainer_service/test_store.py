"""The trainer's run store: events without gaps, and where a run stands after each."""

import threading
from pathlib import Path

import pytest

from agent_service.domain.errors import AgentError
from tests.trainer_service.specs import run_spec
from trainer_service.run import ChunkTrained, Finished, Planned, RunState, StateChanged, What
from trainer_service.store import RunStore
from trainer_service.training.chunk import Chunk
from trainer_service.training.final import FinalScores
from trainer_service.training.spec import Method

CHUNK = ChunkTrained(
    chunk=Chunk(
        index=1,
        losses=(2.5, 1 / 3),
        training_score=0.1,
        validation_score=0.2,
        validation_loss=2.0,
        values={"dropout": 0.1 + 0.2},
        epochs=0.5,
        training_images=32,
        validation_images=48,
        seconds=0.25,
    ),
    policy_version=3,
    agent_seconds=0.001,
)
FINISHED = Finished(
    scores=FinalScores(
        test_score_best=0.9,
        test_score_last=0.8,
        test_accuracy_best=0.91,
        test_accuracy_last=0.81,
        validation_score_best=0.95,
        validation_score_last=0.85,
        best_epoch=2,
    ),
    diverged=False,
    seconds=1.5,
    device="CPU",
)


def test_a_run_stands_where_its_last_event_left_it(tmp_path: Path) -> None:
    """State, planned and trained chunks, result; the same after the file is opened again."""
    spec = run_spec(Method.RD, controller="c")
    store = RunStore(tmp_path / "runs.db")
    store.add("r", spec)
    running = StateChanged(state=RunState.RUNNING)
    succeeded = StateChanged(state=RunState.SUCCEEDED)
    happened: list[What] = [running, Planned(chunks=1), CHUNK, FINISHED, succeeded]
    for what in happened:
        store.append("r", what)
    store.close()

    store = RunStore(tmp_path / "runs.db")
    run = store.find("r")
    events = store.events("r", after=0)
    store.close()

    assert run is not None
    assert (run.spec, run.state, run.result) == (spec, RunState.SUCCEEDED, FINISHED)
    assert (run.planned_chunks, run.trained_chunks) == (1, 1)
    assert [e.what for e in events] == [StateChanged(state=RunState.QUEUED), *happened]
    assert [e.index for e in events] == list(range(1, 7))


def test_events_after_an_index_are_the_rest(tmp_path: Path) -> None:
    """None is given twice, none left out."""
    store = RunStore(tmp_path / "runs.db")
    store.add("r", run_spec())
    for _ in range(4):
        store.append("r", Planned(chunks=1))

    assert [e.index for e in store.events("r", after=2)] == [3, 4, 5]
    assert store.events("r", after=5) == []
    store.close()


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    """Two runs' events from four threads: each run's are numbered from 1 without gaps."""
    store = RunStore(tmp_path / "runs.db")
    for run_id in ("a", "b"):
        store.add(run_id, run_spec())

    def write(run_id: str) -> None:
        for _ in range(50):
            store.append(run_id, Planned(chunks=1))

    threads = [threading.Thread(target=write, args=(run_id,)) for run_id in ("a", "b") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for run_id in ("a", "b"):
        assert [e.index for e in store.events(run_id, after=0)] == list(range(1, 102))
    store.close()


def test_runs_are_listed_by_state_and_counted(tmp_path: Path) -> None:
    """In the order of submission, from any place on."""
    store = RunStore(tmp_path / "runs.db")
    for number in range(5):
        store.add(f"r{number}", run_spec())
    store.append("r1", StateChanged(state=RunState.FAILED, cause="why"))

    queued = store.list(state=RunState.QUEUED, after=0, limit=3)
    rest = store.list(state=RunState.QUEUED, after=queued[-1].key, limit=3)
    (failed,) = store.list(state=RunState.FAILED, after=0, limit=3)

    assert [r.id for r in [*queued, *rest]] == ["r0", "r2", "r3", "r4"]
    assert (failed.id, failed.cause) == ("r1", "why")
    assert store.count()[RunState.QUEUED] == 4
    assert store.count()[RunState.SUCCEEDED] == 0
    store.close()


def test_what_is_no_run_store_is_refused(tmp_path: Path) -> None:
    """A file of another kind, and a folder that is not there, in one line each."""
    (tmp_path / "text").write_text("not a database, but longer than SQLite's header " * 10)
    for path in (tmp_path / "text", tmp_path / "no" / "runs.db"):
        with pytest.raises(AgentError, match="cannot open the run store"):
            RunStore(path)
