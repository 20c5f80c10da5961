"""The run store: events without gaps, and the run's state after each."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
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
from trainer_service.training.chunk import Chunk, FinalScores
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
QUEUED = StateChanged(state=RunState.QUEUED)
RUNNING = StateChanged(state=RunState.RUNNING)
SUCCEEDED = StateChanged(state=RunState.SUCCEEDED)
STORES = sorted((Path(__file__).parents[2] / "data" / "runs").glob("*.db"))


def chunk(index: int) -> ChunkTrained:
    return replace(CHUNK, chunk=replace(CHUNK.chunk, index=index))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    """A store with a queued run, `r`."""
    with closing(RunStore(tmp_path / "runs.db")) as store:
        store.add("r", run_spec())
        yield store


def test_a_run_stands_where_its_last_event_left_it(store: RunStore, tmp_path: Path) -> None:
    """State, planned and trained chunks, result; the same after the file is opened again."""
    spec = run_spec(Method.RD, controller="c")
    store.add("rd", spec)
    happened: list[EventContent] = [RUNNING, Planned(chunks=1), CHUNK, FINISHED, SUCCEEDED]
    for what in happened:
        store.append("rd", what)
    store.close()

    with closing(RunStore(tmp_path / "runs.db")) as again:
        run = again.find("rd")
        events = again.events("rd", after=0)
        assert again.events("rd", after=4) == events[4:]

    assert run is not None
    assert (run.spec, run.state, run.result) == (spec, RunState.SUCCEEDED, FINISHED)
    assert (run.planned_chunks, run.trained_chunks) == (1, 1)
    assert [e.what for e in events] == [QUEUED, *happened]
    assert [e.index for e in events] == list(range(1, 7))


def test_threads_may_write_at_once(store: RunStore) -> None:
    """Two runs' events from four threads: each run's are numbered from 1 without gaps."""
    store.add("s", run_spec())

    def write(run_id: str) -> None:
        for _ in range(50):
            store.append(run_id, Planned(chunks=1))

    threads = [threading.Thread(target=write, args=(run_id,)) for run_id in ("r", "s") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for run_id in ("r", "s"):
        assert [e.index for e in store.events(run_id, after=0)] == list(range(1, 102))


def test_runs_are_listed_by_state_and_counted(store: RunStore) -> None:
    """In the order of submission, from any key on."""
    for number in range(1, 5):
        store.add(f"r{number}", run_spec())
    store.append("r1", StateChanged(state=RunState.FAILED, cause="why"))

    queued = store.list(state=RunState.QUEUED, after=0, limit=3)
    rest = store.list(state=RunState.QUEUED, after=queued[-1].key, limit=3)
    (failed,) = store.list(state=RunState.FAILED, after=0, limit=3)

    assert [r.id for r in [*queued, *rest]] == ["r", "r2", "r3", "r4"]
    assert (failed.id, failed.cause) == ("r1", "why")
    assert store.count()[RunState.QUEUED] == 4
    assert store.count()[RunState.SUCCEEDED] == 0


def test_repeated_events_are_stored_once(store: RunStore) -> None:
    """Chunks, the result and a state with its cause; but each start's plan."""
    waits, planned = replace(RUNNING, cause="waits"), Planned(chunks=2)
    happened: list[tuple[EventContent, bool]] = [
        *((waits, True), (waits, False), (planned, True), (CHUNK, True), (chunk(2), True)),
        *((CHUNK, False), (planned, True), (chunk(2), False), (FINISHED, True), (FINISHED, False)),
        (RUNNING, True),
    ]

    for what, is_new in happened:
        assert store.append("r", what) is is_new
    stored = [e.what for e in store.events("r", after=1)]
    assert stored == [what for what, is_new in happened if is_new]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.name)
def test_stores_of_earlier_versions_are_opened(path: Path, tmp_path: Path) -> None:
    """With a run in each state, its events and result, and writable."""
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    store = RunStore(copy)
    runs = {run.id: run for run in store.list(state=None, after=0, limit=100)}
    events = store.events("succeeded", after=0)
    is_new = store.append("running", chunk(2))
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


def test_a_full_disk_is_reported_and_stores_nothing(store: RunStore) -> None:
    """Unavailable, with the cause; the call succeeds once there is space."""
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    long = StateChanged(state=RunState.FAILED, cause="x" * 100_000)

    with pytest.raises(Unavailable, match="full"):
        store.append("r", long)
    assert len(store.events("r", after=0)) == 1
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.append("r", long)


def test_a_moved_store_stores_nothing_elsewhere(store: RunStore, tmp_path: Path) -> None:
    """Unavailable, with the fix, until the file is put back."""
    (tmp_path / "runs.db").rename(tmp_path / "moved.db")

    with pytest.raises(Unavailable, match="put that file back"):
        store.append("r", RUNNING)
    assert not (tmp_path / "runs.db").exists()
    (tmp_path / "moved.db").rename(tmp_path / "runs.db")
    assert store.append("r", RUNNING), "it was not stored before"


def test_the_files_are_closed_last(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing them may remove the write-ahead log, which no open connection may use then."""
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
