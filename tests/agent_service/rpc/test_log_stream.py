"""StreamTransitions: readers and followers get each transition once, in order, at little cost."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from agent_service.client import AgentClient, RandomSettings
from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Appended, LogPage
from agent_service.rpc.log_stream import LOG_PAGE, LogStreams
from agent_service.rules.runs import RunService
from agent_service.store.sql import queries
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import report, train
from tests.agent_service.specs import spec
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent, of_sqlite


def positions(client: AgentClient, **which: object) -> list[int]:
    return [t.position for t in client.transitions(**which)]  # type: ignore[arg-type]


def test_it_starts_anywhere(client: AgentClient) -> None:
    """After any position comes the rest, over page bounds, of all, a controller or a run."""
    client.create_controller(spec("a"))
    client.create_controller(spec("b"))
    train(client, "a", run_id="r1", chunks=LOG_PAGE + 1)
    train(client, "b", run_id="r2", chunks=3)
    train(client, "a", run_id="r3", chunks=3)

    for which in ({}, {"controller": "a"}, {"run_id": "r1"}, {"controller": "a", "run_id": "r3"}):
        log = positions(client, **which)
        assert log == sorted(set(log))
        for place in (0, 1, len(log) - 2, len(log) - 1):
            assert positions(client, after=log[place], **which) == log[place + 1 :]
        assert positions(client, after=log[-1] + 1000, **which) == []
    assert len(positions(client)) == LOG_PAGE + 7
    assert len(positions(client, controller="a")) == LOG_PAGE + 4
    assert positions(client, controller="b", run_id="r1") == []


@pytest.mark.parametrize("which", [{}, {"controller": "a"}, {"run_id": "a3"}])
def test_a_follower_misses_nothing_of_what_is_committed_in_groups(
    client: AgentClient, which: dict[str, str]
) -> None:
    """16 runs report at once, of two controllers: each transition comes once, in order."""
    for name in "ab":
        client.create_controller(spec(name))
    client.run("a", run_id="a3")
    following = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        stream = client.follow_transitions(**which)  # type: ignore[arg-type]
        expected = {"": 16, "a": 8, "a3": 1}["".join(which.values())] * 20
        following.set()
        seen.extend(t.position for t in islice(stream, expected))

    follower = threading.Thread(target=follow)
    follower.start()
    following.wait(20)
    with ThreadPoolExecutor(16) as pool:
        names = [f"{name}{number}" for name in "ab" for number in range(8)]
        list(pool.map(lambda name: train(client, name[0], run_id=name, chunks=20), names))
    follower.join(30)

    assert seen == positions(client, **which)


def test_a_wrong_address_is_not_followed() -> None:
    """Only a service that was there is waited for."""
    with AgentClient("127.0.0.1:9", budget_seconds=0.1) as client, pytest.raises(Unavailable):
        next(client.follow_transitions())


@of_sqlite
def test_no_page_of_the_log_sorts_the_log(served: ServedAgent) -> None:
    """SQLite walks it by an index, from the position on, and looks up one row for each."""
    of_controller = queries.TRANSITIONS.where(queries.OF_CONTROLLER).params(of_name="c")
    of_run = queries.TRANSITIONS.where(sa.text("runs.id = 'r'")).order_by(queries.FOLLOWING_CHUNK)
    by_position = [
        q.order_by(queries.FOLLOWING_POSITION) for q in (queries.TRANSITIONS, of_controller)
    ]
    for query in (*by_position, of_run):
        query = query.where(queries.FOLLOWING_POSITION > 5)
        with served.store._reading.connect() as connection:
            text = query.compile(connection, compile_kwargs={"literal_binds": True})
            steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
        assert not any("B-TREE" in step or "SCAN" in step for step in steps if "SUBQ" not in step)
        assert any("(run_key=? AND chunk=?)" in step for step in steps)


def test_a_reader_of_a_quiet_run_is_not_led_through_the_others_again(
    served: ServedAgent, client: AgentClient
) -> None:
    """It reads on from the log's end, even if its own last transition lies far before."""
    client.create_controller(spec())
    train(client, run_id="quiet", chunks=2)
    train(client, run_id="busy", chunks=20)
    run_service = RunService(served.store, metrics=served.metrics)
    last = served.store.read(lambda session: session.last_position())

    page = run_service.transitions(controller="", run_id="quiet", after=0, limit=100)

    assert [t.decision.chunk for _, t in page.transitions] == [1, 2]
    assert page.reached == last


def test_a_page_of_long_chunks_is_short(served: ServedAgent, client: AgentClient) -> None:
    """It ends once it has enough bytes, and says that there is more."""
    client.create_controller(spec(chunk_size=10_000, algorithm=RandomSettings()))
    run = client.run("c", run_id="r")
    for _ in range(8):
        run.report_chunk([0.5] * 10_000, training_score=0, validation_score=0.5)
    run_service = RunService(served.store, metrics=served.metrics)

    page = run_service.transitions(controller="", run_id="", after=0, limit=LOG_PAGE)
    rest = run_service.transitions(controller="", run_id="", after=page.reached, limit=LOG_PAGE)

    assert [t.decision.chunk for _, t in page.transitions] == [1, 2, 3, 4]
    assert not page.is_last
    assert [t.decision.chunk for _, t in rest.transitions] == [5, 6, 7, 8]


def test_followers_read_what_is_theirs_and_nothing_else(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 who wait, each for a run of its own, only the one whose run reports reads again."""
    client.create_controller(spec())
    runs = [client.run("c", run_id=f"r{number}") for number in range(20)]
    for run in runs:
        report(run)
    reads: list[str] = []
    actual = RunService.transitions

    def counted(run_service: RunService, *, run_id: str, **rest: Any) -> Any:
        reads.append(run_id)
        return actual(run_service, run_id=run_id, **rest)

    monkeypatch.setattr(RunService, "transitions", counted)
    streams = [client.follow_transitions(run_id=f"r{number}") for number in range(20)]
    for stream in streams:
        next(stream)
    wait_for(lambda: len(reads) == 20)

    for _ in range(3):
        report(runs[7])
        assert next(streams[7]).run_id == "r7"

    assert set(reads[20:]) == {"r7"}


def test_a_follower_is_told_of_what_another_process_commits(
    served: ServedAgent, client: AgentClient
) -> None:
    """A replica on the same store, in a process or a machine of its own."""
    client.create_controller(spec())
    with ServedAgent(served.url) as replica, AgentClient(replica.address) as other:
        stream = client.follow_transitions(controller="c")
        train(other, run_id="r", chunks=3)

        assert [t.chunk_index for t in islice(stream, 3)] == [1, 2, 3]


def test_followers_end_where_the_store_fails(
    client: AgentClient,
    stub: AgentServiceStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With UNAVAILABLE, so that they come again: none waits without a poll of the store."""
    client.create_controller(spec())
    train(client)
    stream = stub.StreamTransitions(pb.StreamTransitionsRequest(follow=True))
    next(stream)

    def fails(_run_service: RunService, *, after: int) -> Any:
        raise Unavailable("the store is away")

    monkeypatch.setattr(RunService, "appended", fails)
    with pytest.raises(grpc.RpcError) as raised:
        next(stream)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


class HeldLog:
    """A run service whose answers wait until they may go on."""

    def __init__(self) -> None:
        self.is_asked, self.goes_on = threading.Event(), threading.Event()
        self.entries = [Appended(15, "c", "late"), Appended(21, "c", "ahead")]
        self.read_after: list[int] = []

    def transitions(self, *, run_id: str, after: int, **_which: object) -> LogPage:
        if run_id == "late":
            self.read_after.append(after)
        if run_id == "fails":
            self._hold()
            raise Unavailable("the store is away")
        return LogPage([], reached=after, is_last=True)

    def appended(self, *, after: int) -> list[Appended]:
        new = [entry for entry in self.entries if entry.position > after]
        self._hold()
        return new

    def _hold(self) -> None:
        self.is_asked.set()
        assert self.goes_on.wait(20)

    def streams(self) -> LogStreams:
        return LogStreams(self, pause=lambda _: asyncio.sleep(0))  # type: ignore[arg-type]


async def follow(streams: LogStreams, run_id: str, after: int) -> None:
    request = pb.StreamTransitionsRequest(run_id=run_id, after_position=after, follow=True)
    async for _ in streams.answer(request):
        pass


def test_a_follower_that_joins_during_a_poll_misses_nothing() -> None:
    """It is further behind than the polled ones, and entries in between may be its own."""
    log = HeldLog()

    async def join_during_a_poll() -> None:
        streams = log.streams()
        ahead = asyncio.create_task(follow(streams, "ahead", 20))
        await asyncio.to_thread(log.is_asked.wait, 20)
        late = asyncio.create_task(follow(streams, "late", 10))
        while len(streams._followers) < 2:
            await asyncio.sleep(0)
        log.entries.append(Appended(30, "c", "late"))
        log.goes_on.set()
        while len(log.read_after) < 2:
            await asyncio.sleep(0)
        ahead.cancel()
        late.cancel()

    asyncio.run(join_during_a_poll())

    assert log.read_after[:2] == [10, 10]


def test_a_failed_read_whose_reader_has_left_is_not_logged() -> None:
    """Nobody waits for it, and the next reader gets an error of its own."""
    log, logged = HeldLog(), list[object]()

    async def leave_during_a_read() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: logged.append(what))
        streams = log.streams()
        reader = asyncio.create_task(follow(streams, "fails", 0))
        await asyncio.to_thread(log.is_asked.wait, 20)
        reader.cancel()
        await asyncio.wait([reader])
        log.goes_on.set()
        while streams._pages:
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(leave_during_a_read())

    assert logged == []
