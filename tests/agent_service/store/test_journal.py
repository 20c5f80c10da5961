"""Group commit: what waits shares a transaction, and nobody's failure is another's."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent_service.domain.errors import NotFound, Unavailable
from agent_service.store.journal import Journal
from agent_service.store.session import SqlSession

NUMBERS = sa.table("numbers", sa.column("n"))


class Database:
    """A table of numbers behind a journal."""

    def __init__(self, path: Path) -> None:
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE numbers (n INTEGER UNIQUE)")
        self.groups: list[int] = []
        self.journal = Journal(
            self.engine, observe_commit=lambda _seconds, size: self.groups.append(size)
        )

    def add(self, n: int, *calls: Callable[[], None]) -> Future[Any]:
        def work(session: SqlSession) -> int:
            session.write(sa.insert(NUMBERS).values(n=n))
            for call in calls:
                session.after_commit(call)
            return n

        return self.journal.submit(work)

    def hold(self) -> threading.Event:
        """Keep the writer busy until the event is set, so that what follows waits together."""
        started, release = threading.Event(), threading.Event()

        def work(_session: SqlSession) -> None:
            started.set()
            assert release.wait(20)

        self.journal.submit(work)
        assert started.wait(20)
        return release

    def numbers(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(NUMBERS.c.n).order_by(NUMBERS.c.n)).scalars())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "numbers.db")
    yield database
    database.journal.close()
    database.engine.dispose()


def test_what_waits_shares_one_commit(database: Database) -> None:
    """Fifty calls that come while a commit is in progress take one more, and all are answered."""
    release = database.hold()
    futures = [database.add(n) for n in range(50)]
    release.set()

    assert [future.result(20) for future in futures] == list(range(50))
    assert database.groups == [1, 50]
    assert database.numbers() == list(range(50))


def test_one_that_fails_takes_nothing_of_the_others_with_it(database: Database) -> None:
    """Its own changes are undone, its future raises; its neighbours in the group are durable."""

    def fails(session: SqlSession) -> None:
        session.write(sa.insert(NUMBERS).values(n=100))
        raise NotFound("no such number")

    release = database.hold()
    first, bad, last = database.add(1), database.journal.submit(fails), database.add(2)
    release.set()

    with pytest.raises(NotFound):
        bad.result(20)
    assert (first.result(20), last.result(20)) == (1, 2)
    assert database.numbers() == [1, 2]


def test_who_is_told_is_told_after_the_commit(database: Database) -> None:
    """A call after the commit sees its change in another connection; none comes for a failure."""
    seen: list[list[int]] = []

    def fails(session: SqlSession) -> None:
        session.after_commit(lambda: seen.append([]))
        raise NotFound("nothing")

    database.add(1, lambda: seen.append(database.numbers())).result(20)
    with pytest.raises(NotFound):
        database.journal.submit(fails).result(20)

    assert seen == [[1]]


def test_an_observer_that_fails_does_not_stop_the_writer(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What is durable is answered; the failure is logged."""

    def fails() -> None:
        raise ValueError("a broken metric")

    assert database.add(1, fails).result(20) == 1
    assert database.add(2).result(20) == 2
    assert "a broken metric" in caplog.text


def test_storage_that_refuses_fails_the_group_and_serves_the_next(database: Database) -> None:
    """A locked database is UNAVAILABLE for all that waited; when it is free, all goes on."""
    with sa.create_engine(database.engine.url).connect() as other:
        other.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            database.add(1).result(20)
        other.rollback()

    assert database.add(2).result(20) == 2
    assert database.numbers() == [2]


def test_closing_commits_what_waits_and_takes_no_more(database: Database) -> None:
    """Every future is answered: the early ones with their result, the late one as refused."""
    release = database.hold()
    futures = [database.add(n) for n in range(3)]
    closing = threading.Thread(target=database.journal.close)
    closing.start()
    release.set()
    closing.join(20)

    assert [future.result(0) for future in futures] == [0, 1, 2]
    with pytest.raises(Unavailable, match="closed"):
        database.add(9).result(0)
    assert database.numbers() == [0, 1, 2]
