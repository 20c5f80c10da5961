"""Journals: what waits shares a transaction, and nobody's failure is another's."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent_service.domain.errors import NotFound, Unavailable
from agent_service.domain.store import Durability
from agent_service.store.journal import journal as journal_module
from agent_service.store.journal import writer as writer_module
from agent_service.store.journal.journal import DirectJournal, Journal, LoopJournal, ThreadJournal
from agent_service.store.journal.writer import Writer
from agent_service.store.rows.session import Session
from agent_service.store.sql.sqlite import SqliteDatabase

NUMBERS = sa.table("numbers", sa.column("n"))
THREAD = ThreadPoolExecutor(1)

Scenario = Callable[["Database"], Awaitable[None]]
Play = Callable[[Scenario], None]


class SlowWriter(Writer):
    """A writer whose commits wait until they are let go on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.committing, self.may_commit = threading.Event(), threading.Event()
        self.may_commit.set()

    def commit(self) -> None:
        self.committing.set()
        assert self.may_commit.wait(20)
        super().commit()


class Database:
    """A table of numbers behind a journal."""

    def __init__(self, path: Path, journal: Callable[[Writer], Journal]) -> None:
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

        @sa.event.listens_for(self.engine, "connect")
        def configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None

        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER UNIQUE)")
        self.groups: list[int] = []
        self.writer = SlowWriter(
            self.engine,
            SqliteDatabase(sa.make_url(f"sqlite:///{path}"), Durability.POWER),
            observe_commit=lambda _seconds, size: self.groups.append(size),
        )
        self.journal = journal(self.writer)

    def add(self, n: int, *calls: Callable[[], None]) -> "asyncio.Future[Any]":
        def work(session: Session) -> int:
            session.write(sa.insert(NUMBERS).values(n=n))
            for call in calls:
                session.after_commit(call)
            return n

        return self.submit(work)

    def submit(self, work: Callable[[Session], Any]) -> "asyncio.Future[Any]":
        return asyncio.wrap_future(self.journal.submit(work))

    async def hold(self) -> "asyncio.Future[Any]":
        """Have a commit in progress until `may_commit` is set, so that what follows waits."""
        self.writer.may_commit.clear()
        held = self.add(1000)
        await asyncio.to_thread(self.writer.committing.wait, 20)
        return held

    def numbers(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(NUMBERS.c.n).order_by(NUMBERS.c.n)).scalars())


def play(scenario: Scenario, path: Path, journal: Callable[[Writer], Journal]) -> None:
    async def main() -> None:
        database = Database(path, journal)
        await asyncio.wait_for(scenario(database), 60)
        database.journal.close()
        database.engine.dispose()

    asyncio.run(main())


def unsynced(writer: Writer) -> Journal:
    """A loop's journal whose commits do not wait for the disk."""
    writer.commit_syncs = False
    return LoopJournal(writer)


def in_a_thread(writer: Writer) -> Journal:
    return ThreadJournal(THREAD, writer)


@pytest.fixture(params=[DirectJournal, LoopJournal, unsynced, in_a_thread])
def of_each(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return lambda scenario: play(scenario, tmp_path / "numbers.db", request.param)


@pytest.fixture
def in_loop(tmp_path: Path) -> Play:
    return lambda scenario: play(scenario, tmp_path / "numbers.db", LoopJournal)


def fails_after_writing(session: Session) -> None:
    session.write(sa.insert(NUMBERS).values(n=100))
    session.after_commit(lambda: pytest.fail("told of what is not durable"))
    raise NotFound("no such number")


def test_a_failed_call_takes_nothing_of_the_others_with_it(of_each: Play) -> None:
    """Its own changes are undone, its future raises; its neighbours in the group are durable.

    Observers are called after the commit: they see the change in another connection.
    """

    async def scenario(database: Database) -> None:
        seen: list[list[int]] = []
        await database.add(0, lambda: seen.append(database.numbers()))
        assert seen == [[0]]
        calls = [database.add(1), database.submit(fails_after_writing), database.add(2)]

        answers = await asyncio.gather(*calls, return_exceptions=True)

        assert [answers[0], answers[2]] == [1, 2]
        assert isinstance(answers[1], NotFound)
        assert database.numbers() == [0, 1, 2]

    of_each(scenario)


def test_an_observer_that_fails_does_not_stop_the_writer(
    of_each: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """Durable calls are answered; the failure is logged."""

    def fails() -> None:
        raise ValueError("a broken metric")

    async def scenario(database: Database) -> None:
        assert await database.add(1, fails) == 1
        assert await database.add(2) == 2

    of_each(scenario)
    assert "a broken metric" in caplog.text


def test_a_lock_that_lasts_fails_the_group_and_serves_the_next(
    of_each: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked database is UNAVAILABLE to who waited too long; when it is free, all goes on."""
    monkeypatch.setattr(journal_module, "LOCK_SECONDS", 0.1)

    async def scenario(database: Database) -> None:
        with sa.create_engine(database.engine.url).connect() as other:
            other.exec_driver_sql("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable, match="locked"):
                await database.add(1)
            other.rollback()

        assert await database.add(2) == 2
        assert database.numbers() == [2]

    of_each(scenario)


def test_a_closed_journal_takes_no_more(of_each: Play) -> None:
    """Late calls are refused."""

    async def scenario(database: Database) -> None:
        database.journal.close()

        with pytest.raises(Unavailable, match="closed"):
            await database.add(9)
        assert database.numbers() == []

    of_each(scenario)


def test_what_waits_shares_one_commit(in_loop: Play) -> None:
    """Fifty calls that come while a commit is in progress take one more, and all are answered."""

    async def scenario(database: Database) -> None:
        held = await database.hold()
        futures = [database.add(n) for n in range(50)]
        await asyncio.sleep(0)
        assert not held.done()
        database.writer.may_commit.set()

        assert await asyncio.gather(*futures) == list(range(50))
        assert database.groups == [1, 50]
        assert database.numbers() == [*range(50), 1000]

    in_loop(scenario)


def test_who_comes_to_an_idle_loop_waits_for_nobody(in_loop: Play) -> None:
    """After a quick commit the answer is there at once; after a slow one the loop goes on."""

    async def scenario(database: Database) -> None:
        assert await database.add(1) == 1
        for seconds in (0.0, 1.0):
            database.writer.commit_seconds = seconds
            await asyncio.sleep(2 * journal_module.IDLE_SECONDS)
            future = database.add(10 + int(seconds))

            assert future.done() == (seconds == 0.0)
            await future
        assert database.numbers() == [1, 10, 11]

    in_loop(scenario)


def test_two_who_come_together_share_a_commit(in_loop: Play) -> None:
    """Who comes right after a shared commit is taken for one of many, and waits for the others."""

    async def scenario(database: Database) -> None:
        await database.hold()
        futures = [database.add(n) for n in range(2)]
        database.writer.may_commit.set()
        await asyncio.gather(*futures)
        again = [database.add(n) for n in (2, 3)]

        assert not any(future.done() for future in again)
        await asyncio.gather(*again)
        assert database.groups == [1, 2, 2]

    in_loop(scenario)


def test_a_lock_of_another_process_is_waited_for(in_loop: Play) -> None:
    """The loop goes on meanwhile, and calls that come later share the transaction."""

    async def scenario(database: Database) -> None:
        with sa.create_engine(database.engine.url).connect() as other:
            other.exec_driver_sql("BEGIN EXCLUSIVE")
            first = database.add(1)
            for _ in range(20):
                await asyncio.sleep(0.001)
            second = database.add(2)
            assert not first.done()
            other.rollback()

        assert [await first, await second] == [1, 2]
        assert database.groups == [2]

    in_loop(scenario)


def test_who_has_gone_is_not_answered_and_stops_nobody(in_loop: Play) -> None:
    """Calls that are cancelled while they wait, or in the commit, leave the writer well."""

    async def scenario(database: Database) -> None:
        held = await database.hold()
        waiting = database.add(1)
        held.cancel()
        waiting.cancel()
        database.writer.may_commit.set()

        assert await database.add(2) == 2
        assert database.numbers() == [2, 1000]

    in_loop(scenario)


def test_closing_commits_what_waits(in_loop: Play) -> None:
    """The commit in progress and what came after it are answered."""

    async def scenario(database: Database) -> None:
        held = await database.hold()
        futures = [database.add(n) for n in range(3)]
        database.writer.may_commit.set()
        database.journal.close()

        assert await asyncio.gather(held, *futures) == [1000, 0, 1, 2]
        assert database.numbers() == [0, 1, 2, 1000]

    in_loop(scenario)


def test_what_is_not_synced_is_checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many calls the log of SQLite is brought into its file, and calls go on meanwhile."""
    monkeypatch.setattr(writer_module, "CHECKPOINT_CALLS", 10)

    async def scenario(database: Database) -> None:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        for n in range(100):
            assert await database.add(n) == n

        log = tmp_path / "numbers.db-wal"
        assert log.stat().st_size < 30 * 4096, "100 commits are still in the log"
        assert database.numbers() == list(range(100))

    play(scenario, tmp_path / "numbers.db", unsynced)


def test_a_checkpoint_that_fails_fails_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Answered calls are stored; the failure is logged, and the next calls are served."""
    monkeypatch.setattr(writer_module, "CHECKPOINT_CALLS", 1)

    def fails(_writer: Writer) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Writer, "checkpoint", fails)

    async def scenario(database: Database) -> None:
        assert [await database.add(n) for n in range(3)] == [0, 1, 2]
        assert database.numbers() == [0, 1, 2]

    play(scenario, tmp_path / "numbers.db", unsynced)
    assert "disk I/O error" in caplog.text
