"""The run store: events without gaps, and the run's state after each."""

import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent_service.domain.errors import AgentError, Unavailable
from agent_service.store_files import StoreFiles
from tests.trainer_service.specs import run_spec
from trainer_service.runs.run import (
    ChunkTrained,
    EventContent,
    Finished,
    Planned,
    RunState,
    StateChanged,
)
from trainer_service.runs.store import RunStore
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
    weights_digest="5ca1e",
)
STORES = sorted((Path(__file__).parents[2] / "data" / "runs").glob("*.db"))


def test_a_run_stands_where_its_last_event_left_it(tmp_path: Path) -> None:
    """State, planned and trained chunks, result; the same after the file is opened again."""
    spec = run_spec(Method.RD, controller="c")
    store = RunStore(tmp_path / "runs.db")
    store.add("r", spec)
    running = StateChanged(state=RunState.RUNNING)
    succeeded = StateChanged(state=RunState.SUCCEEDED)
    happened: list[EventContent] = [running, Planned(chunks=1), CHUNK, FINISHED, succeeded]
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
    """Without repetitions or gaps."""
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
    """In the order of submission, from any key on."""
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


def test_repeated_events_are_stored_once(tmp_path: Path) -> None:
    """Chunks, the result and a state with its cause; but each start's plan."""
    store = RunStore(tmp_path / "runs.db")
    store.add("r", run_spec())
    waits = StateChanged(state=RunState.RUNNING, cause="waits")
    second = replace(CHUNK, chunk=replace(CHUNK.chunk, index=2, seconds=9.0))
    events: list[EventContent] = [
        waits,
        waits,
        Planned(chunks=2),
        CHUNK,
        second,
        CHUNK,
        Planned(chunks=2),
    ]
    events += [second, FINISHED, FINISHED, StateChanged(state=RunState.RUNNING)]
    are_new = [store.append("r", what) for what in events]
    stored = [e.what for e in store.events("r", after=1)]
    store.close()

    assert are_new == [True, False, True, True, True, False, True, False, True, False, True]
    assert stored == [what for what, is_new in zip(events, are_new, strict=True) if is_new]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.name)
def test_stores_of_earlier_versions_are_opened(path: Path, tmp_path: Path) -> None:
    """With a run in each state, its events and result, and writable."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    store = RunStore(copy)
    runs = {run.id: run for run in store.list(state=None, after=0, limit=100)}
    events = store.events("succeeded", after=0)
    is_new = store.append("running", replace(CHUNK, chunk=replace(CHUNK.chunk, index=2)))
    store.close()

    assert set(runs) == {state.value for state in RunState}
    assert all(run.state.value == name for name, run in runs.items())
    assert runs["failed"].cause == "why"
    assert runs["succeeded"].spec == run_spec(Method.RD, controller="c")
    assert runs["succeeded"].result == replace(FINISHED, weights_digest="")
    assert CHUNK in [e.what for e in events]
    assert is_new


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """The error names both versions and the fix."""
    path = tmp_path / "runs.db"
    RunStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    with pytest.raises(AgentError, match="version 99"):
        RunStore(path)
    assert path.read_bytes() == before


def test_a_store_is_open_in_one_service_at_a_time(tmp_path: Path) -> None:
    """A second one is refused until the first is closed."""
    first = RunStore(tmp_path / "runs.db")
    with pytest.raises(AgentError, match="another trainer service"):
        RunStore(tmp_path / "runs.db")
    first.close()

    RunStore(tmp_path / "runs.db").close()


def test_a_full_disk_is_reported_and_stores_nothing(tmp_path: Path) -> None:
    """Unavailable, with the cause; the call succeeds once there is space."""
    store = RunStore(tmp_path / "runs.db")
    store.add("r", run_spec())
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    long = StateChanged(state=RunState.FAILED, cause="x" * 100_000)

    with pytest.raises(Unavailable, match="full"):
        store.append("r", long)
    assert len(store.events("r", after=0)) == 1
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.append("r", long)
    store.close()


def test_a_moved_store_stores_nothing_elsewhere(tmp_path: Path) -> None:
    """Unavailable, with the fix, until the file is put back."""
    store = RunStore(tmp_path / "runs.db")
    store.add("r", run_spec())
    failed = StateChanged(state=RunState.FAILED, cause="")
    (tmp_path / "runs.db").rename(tmp_path / "moved.db")

    with pytest.raises(Unavailable, match="put that file back"):
        store.append("r", failed)
    assert not (tmp_path / "runs.db").exists()
    (tmp_path / "moved.db").rename(tmp_path / "runs.db")
    assert store.append("r", failed), "it was not stored before"
    store.close()


def test_the_files_are_closed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing them may remove the write-ahead log, which no open connection may use then."""
    store = RunStore(tmp_path / "runs.db")
    actual = StoreFiles.close

    def close(files: StoreFiles) -> None:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            store._connection.execute("SELECT 1")
        actual(files)

    monkeypatch.setattr(StoreFiles, "close", close)
    store.close()


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file of another kind, and a missing folder, in one line each."""
    (tmp_path / "text").write_text("not a database, but longer than SQLite's header " * 10)
    for path in (tmp_path / "text", tmp_path / "no" / "runs.db"):
        with pytest.raises(AgentError, match="cannot open the run store"):
            RunStore(path)
