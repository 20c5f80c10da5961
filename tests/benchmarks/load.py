"""Load of the benchmarks: callers of the agent service and of the echo."""

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import numpy as np

from agent_service.client import ControllerSpec
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire import convert
from tests.benchmarks.echo import CALL, STREAM

Call = Callable[[], Awaitable[object]]
_numbers = itertools.count()
_LOSSES = np.random.default_rng(0).uniform(0, 3, (64, 20)).tolist()


def channel_of(address: str) -> grpc.aio.Channel:
    """Return a connection that is shared with no other."""
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def report(run_id: str, chunk: int) -> pb.ReportChunkRequest:
    """Return a report of the usual size, chunks of 20 as in the paper."""
    return pb.ReportChunkRequest(
        run_id=run_id,
        chunk_index=chunk,
        losses=_LOSSES[chunk % len(_LOSSES)],
        scores=pb.Scores(training=0.5, validation=0.5),
    )


class Caller:
    """Reports one run after another chunk, by calls or over a stream."""

    def __init__(self, channel: grpc.aio.Channel, controller: str) -> None:
        self._stub = agent_pb2_grpc.AgentServiceStub(channel)
        self._controller = controller
        self._stream: grpc.aio.StreamStreamCall[pb.StreamReportsRequest, pb.StreamReportsResponse]
        self.chunk = 0

    async def start(self) -> None:
        self._run_id = f"bench-{os.getpid()}-{next(_numbers)}"
        self.chunk = 0
        await self._stub.StartRun(
            pb.StartRunRequest(controller=self._controller, run_id=self._run_id)
        )

    async def call(self) -> None:
        self.chunk += 1
        await self._stub.ReportChunk(report(self._run_id, self.chunk))

    async def start_and_report(self) -> None:
        await self.start()
        await self.call()

    def open_stream(self) -> None:
        self._stream = self._stub.StreamReports()

    async def send(self) -> None:
        self.chunk += 1
        request = pb.StreamReportsRequest(report=report(self._run_id, self.chunk))
        await self._stream.write(request)
        answer = await self._stream.read()
        assert isinstance(answer, pb.StreamReportsResponse)
        assert answer.code == 0, answer.message


async def create(address: str, *specs: ControllerSpec) -> None:
    async with channel_of(address) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        for spec in specs:
            message = convert.spec_to_message(spec)
            await stub.CreateController(pb.CreateControllerRequest(spec=message))


async def callers(address: str, controller: str, count: int) -> list[Caller]:
    """Return so many callers, each with a run and a connection of its own."""
    made = [Caller(channel_of(address), controller) for _ in range(count)]
    for caller in made:
        await caller.start()
    return made


def echoes(address: str, count: int) -> list[Call]:
    """Return the calls of so many callers of the echo, with a report's bytes."""
    data = report("bench-12345-123", 100).SerializeToString()

    def one() -> Call:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel_of(address).unary_unary(CALL)
        return lambda: call(data)

    return [one() for _ in range(count)]


def stream_echoes(address: str, count: int) -> list[Call]:
    """Return what sends a message over a stream of the echo, for so many streams."""
    data = pb.StreamReportsRequest(report=report("bench-12345-123", 100)).SerializeToString()

    def one() -> Call:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        method = channel_of(address).stream_stream(STREAM)
        stream = method()

        async def send() -> object:
            await stream.write(data)
            return await stream.read()

        return send

    return [one() for _ in range(count)]


async def seconds_of(call: Call) -> float:
    before = time.perf_counter()
    await call()
    return time.perf_counter() - before


async def median_seconds(call: Call, *, times: int) -> float:
    """Return the median time of one caller's calls, one after another."""
    for _ in range(20):
        await call()
    return statistics.median([await seconds_of(call) for _ in range(times)])


async def paired_medians(one: Call, other: Call, *, times: int) -> tuple[float, float]:
    """Return the median times of two calls that take turns, so that both meet the same moments."""
    pairs = [(await seconds_of(one), await seconds_of(other)) for _ in range(times)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


async def calls_a_second(calls: Sequence[Call], *, seconds: float) -> float:
    """Return how many calls are answered in a second, each caller one after another."""
    count = 0
    ends = time.perf_counter() + seconds

    async def keep_calling(call: Call) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await call()
            count += 1

    await asyncio.gather(*(keep_calling(call) for call in calls))
    return count / seconds


async def steady_seconds(calls: Sequence[Call], *, rate: float, seconds: float) -> list[float]:
    """Return the times of calls that begin at a rate, each from when it is due."""
    taken: list[float] = []
    free: asyncio.Queue[Call] = asyncio.Queue()
    for call in calls:
        free.put_nowait(call)
    begin = time.perf_counter()

    async def one(due: float) -> None:
        call = await free.get()
        await call()
        taken.append(time.perf_counter() - due)
        free.put_nowait(call)

    tasks = []
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return taken
