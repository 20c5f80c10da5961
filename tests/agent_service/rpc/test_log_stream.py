"""StreamTransitions: what a reader of the log can rely on."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from agent_service.client import AgentClient
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import InvalidArgument, NotFound, Unavailable
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import Appended, ChunkReport, LogPage, Mode, StartRun
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Durability
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rpc.log_stream import LOG_PAGE, LogStreams
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.sql import queries
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent, of_sqlite

LOSSES = [2.0, 1.5, 1.25, 1.0]


def report(client: AgentClient, run_id: str, chunks: int, *, controller: str = "c") -> None:
    run = client.run(controller, run_id=run_id)
    for _ in range(chunks):
        run.report_chunk(LOSSES, training_score=0, validation_score=0.5)


def positions(client: AgentClient, **which: object) -> list[int]:
    return [t.position for t in client.transitions(**which)]  # type: ignore[arg-type]


def test_it_starts_anywhere(client: AgentClient) -> None:
    """After any position comes the rest, over page bounds, of all, a controller or a run."""
    client.create_controller(spec("a"))
    client.create_controller(spec("b"))
    report(client, "r1", LOG_PAGE + 1, controller="a")
    report(client, "r2", 3, controller="b")
    report(client, "r3", 3, controller="a")

    for which in ({}, {"controller": "a"}, {"run_id": "r1"}, {"controller": "a", "run_id": "r3"}):
        log = positions(client, **which)
        assert log == sorted(set(log))
        for place in (0, 1, len(log) - 2, len(log) - 1):
            assert positions(client, after=log[place], **which) == log[place + 1 :]
        assert positions(client, after=log[-1] + 1000, **which) == []
    assert len(positions(client)) == LOG_PAGE + 7
    assert len(positions(client, controller="a")) == LOG_PAGE + 4
    assert positions(client, controller="b", run_id="r1") == []


def test_what_is_not_there_is_said(client: AgentClient) -> None:
    """NOT_FOUND for an unknown run or controller, following or not; never an endless wait."""
    for which in ({"run_id": "nobody"}, {"controller": "nobody"}):
        for stream in (client.transitions, client.follow_transitions):
            with pytest.raises(NotFound, match="'nobody'"):
                next(stream(**which))  # type: ignore[arg-type]


def test_a_position_below_zero_is_refused(client: AgentClient) -> None:
    """INVALID_ARGUMENT, by the field's name."""
    with pytest.raises(InvalidArgument) as raised:
        list(client.transitions(after=-1))

    assert [v.field for v in raised.value.violations] == ["after_position"]


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
        list(pool.map(lambda name: report(client, name, 20, controller=name[0]), names))
    follower.join(30)

    assert seen == positions(client, **which)


def test_who_stops_reading_ends_the_call(served: ServedAgent, client: AgentClient) -> None:
    """At once, in the middle of the log and while it waits for more."""
    # 16 MB: more than gRPC has on the way at once, also where the other end is fast.
    client.create_controller(spec(chunk_size=10_000))
    run = client.run("c", run_id="r")
    for _ in range(100):
        run.report_chunk([0.5] * 10_000, training_score=0, validation_score=0.5)

    begun = client.transitions()
    assert next(begun).chunk_index == 1
    begun.close()  # type: ignore[attr-defined]
    wait_for(lambda: cancelled_streams(served) == 1)

    waiting = client.follow_transitions(after=positions(client)[-2])
    assert next(waiting).chunk_index == 100
    waiting.close()  # type: ignore[attr-defined]
    wait_for(lambda: cancelled_streams(served) == 2)


def cancelled_streams(served: ServedAgent) -> float:
    labels = {"grpc_method": "StreamTransitions", "grpc_code": "Cancelled"}
    labels |= {"grpc_type": "server_stream", "grpc_service": "agent_service.v1.AgentService"}
    return served.registry.get_sample_value("grpc_server_handled_total", labels) or 0.0


def test_a_wrong_address_is_not_followed() -> None:
    """Only a service that was there is waited for."""
    with AgentClient("127.0.0.1:9", budget_seconds=0.1) as client, pytest.raises(Unavailable):
        next(client.follow_transitions())


def test_a_long_log_fills_no_memory(tmp_path: Path) -> None:
    """64 MB of losses pass through; neither side's peak grows by half of that."""

    def peak(agent: AgentProcess) -> int:
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    fill(tmp_path / "agent.db", spec(algorithm=RandomSettings(), chunk_size=10_000), chunks=400)
    with AgentProcess(tmp_path / "agent.db") as agent:
        before = peak(agent)
        readers = [read_to_end(agent.address, after) for after in (399, 0)]

        assert peak(agent) - before < 32e6
        assert readers[1] - readers[0] < 32e6


def fill(path: Path, of: ControllerSpec, *, chunks: int) -> None:
    """Make a store with one run's log, without a service: large reports are slow on the wire."""
    with SqlStore(f"sqlite:///{path}", durability=Durability.PROCESS) as store:
        Catalog(store).create_controller(of, Mode.LEARNING).result()
        run_service = RunService(store, metrics=DecisionMetrics(CollectorRegistry()))
        run_service.start_run(StartRun(controller=of.name, run_id="r", labels={})).result()
        losses, scores = np.full(of.chunk_size, 0.5), Scores(training=0, validation=0.5)
        for chunk in range(1, chunks + 1):
            report = ChunkReport(run_id="r", chunk=chunk, losses=losses, feedback=scores)
            run_service.report_chunk(report).result()


def read_to_end(address: str, after: int) -> int:
    """Return the peak of a reading process's memory, in bytes."""
    code = (
        "from agent_service.client import AgentClient\n"
        f"for step in AgentClient({address!r}).transitions(after={after}): pass"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


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
    """What it reads on from is the log's end, though its own last transition lies far before."""
    client.create_controller(spec())
    report(client, "quiet", 2)
    report(client, "busy", 20)
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


def test_who_does_not_read_keeps_little_in_the_server(tmp_path: Path) -> None:
    """30 streams of 64 MB of losses, each read once and then no more: 5 MiB each at the most."""

    def resident(agent: AgentProcess) -> int:
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    fill(tmp_path / "agent.db", spec(algorithm=RandomSettings(), chunk_size=10_000), chunks=400)
    with AgentProcess(tmp_path / "agent.db") as agent:
        list(islice(stalled(agent.address, after=0), 1))
        before = resident(agent)
        streams = [stalled(agent.address, after=5 * number) for number in range(30)]
        for stream in streams:
            next(stream)

        assert resident(agent) - before < 150


def stalled(address: str, *, after: int) -> Iterator[pb.StreamTransitionsResponse]:
    """Return a stream whose connection takes no more than what is asked of it."""
    options = [("grpc.http2.lookahead_bytes", 1), ("grpc.use_local_subchannel_pool", 1)]
    stub = agent_pb2_grpc.AgentServiceStub(grpc.insecure_channel(address, options))
    request = pb.StreamTransitionsRequest(after_position=after, follow=True)
    stream: Iterator[pb.StreamTransitionsResponse] = stub.StreamTransitions(request)
    return stream


def test_followers_read_what_is_theirs_and_nothing_else(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 who wait, each for a run of its own, only the one whose run reports reads again."""
    client.create_controller(spec())
    for number in range(20):
        report(client, f"r{number}", 1)
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

    run = client.run("c", run_id="r7")
    for _ in range(3):
        run.report_chunk(LOSSES, training_score=0, validation_score=0.5)
        assert next(streams[7]).run_id == "r7"

    assert set(reads[20:]) == {"r7"}


def test_a_follower_is_told_of_what_another_process_commits(
    served: ServedAgent, client: AgentClient
) -> None:
    """A replica on the same store, in a process or a machine of its own."""
    client.create_controller(spec())
    with ServedAgent(served.url) as replica, AgentClient(replica.address) as other:
        stream = client.follow_transitions(controller="c")
        report(other, "r", 3)

        assert [t.chunk_index for t in islice(stream, 3)] == [1, 2, 3]


def test_followers_end_where_the_store_fails(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With UNAVAILABLE, so that they come again; nobody waits for what nobody looks for."""
    client.create_controller(spec())
    report(client, "r", 1)
    stub = agent_pb2_grpc.AgentServiceStub(grpc.insecure_channel(served.address))
    stream = stub.StreamTransitions(pb.StreamTransitionsRequest(follow=True))
    next(stream)

    def fails(_run_service: RunService, *, after: int) -> Any:
        raise Unavailable("the store is away")

    monkeypatch.setattr(RunService, "appended", fails)
    with pytest.raises(grpc.RpcError) as raised:
        next(stream)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


class _Log:
    """A run_service whose answers are held up."""

    def __init__(self) -> None:
        self.is_asked, self.goes_on = threading.Event(), threading.Event()
        self.entries = [appended(15, "late"), appended(21, "ahead")]
        self.read_after: list[int] = []

    def transitions(self, *, run_id: str, after: int, **_which: object) -> LogPage:
        if run_id == "late":
            self.read_after.append(after)
        if run_id == "fails":
            self._hold_up()
            raise Unavailable("the store is away")
        return LogPage([], reached=after, is_last=True)

    def appended(self, *, after: int) -> list[Appended]:
        new = [entry for entry in self.entries if entry.position > after]
        self._hold_up()
        return new

    def _hold_up(self) -> None:
        self.is_asked.set()
        assert self.goes_on.wait(20)


def appended(position: int, run_id: str) -> Appended:
    return Appended(position=position, controller="c", run_id=run_id)


def streams_of(log: _Log) -> LogStreams:
    return LogStreams(log, pause=lambda _: asyncio.sleep(0))  # type: ignore[arg-type]


async def follow(streams: LogStreams, run_id: str, after: int) -> None:
    request = pb.StreamTransitionsRequest(run_id=run_id, after_position=after, follow=True)
    async for _ in streams.answer(request):
        pass


def test_a_follower_that_joins_during_a_look_misses_nothing() -> None:
    """It lies behind those who are looked for, and what is between may be its own."""
    log = _Log()

    async def join_during_a_look() -> None:
        streams = streams_of(log)
        ahead = asyncio.create_task(follow(streams, "ahead", 20))
        await asyncio.to_thread(log.is_asked.wait, 20)
        late = asyncio.create_task(follow(streams, "late", 10))
        while len(streams._followers) < 2:
            await asyncio.sleep(0)
        log.entries.append(appended(30, "late"))
        log.goes_on.set()
        while len(log.read_after) < 2:
            await asyncio.sleep(0)
        ahead.cancel()
        late.cancel()

    asyncio.run(join_during_a_look())

    assert log.read_after[:2] == [10, 10]


def test_a_read_that_fails_when_its_reader_has_left_is_not_logged() -> None:
    """Nobody waits for it, and the next reader is told of its own."""
    log, logged = _Log(), list[object]()

    async def leave_during_a_read() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: logged.append(what))
        streams = streams_of(log)
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
