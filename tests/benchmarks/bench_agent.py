"""How fast the agent service answers, as ratios to references that are measured in the same run.

References: a bare gRPC echo of the same bytes, and one synced append to the same disk. Servers are
processes of their own, and so is the load, which is this one. `make bench-agent` shows the table
and writes the figures as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agent_service import convert
from agent_service.client import ControllerSpec, Hyperparameter, PPOSettings, Reward
from agent_service.domain.ports import Durability
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from tests.benchmarks.echo import METHOD
from tests.end_to_end.processes import AgentProcess

ROUNDS = 5
"""Repetitions, of which the medians are shown; all measures take turns in each."""
ALONE = 300
"""Calls of one caller in a round."""
CALLERS = 64
SECONDS = 2.0
"""Of load by many callers in a round."""
RATE = 500.0
"""Reports a second, while updates run and while none does."""
STEADY_SECONDS = 4.0
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=0.9)

Call = Callable[[], Awaitable[object]]


def spec(name: str, rollout_size: int) -> ControllerSpec:
    """Return a controller with chunks of 20, as in the paper."""
    return ControllerSpec(
        name=name,
        hyperparameters=(DROPOUT,),
        reward=Reward.VALIDATION,
        algorithm=PPOSettings(rollout_size=rollout_size),
    )


class Reports:
    """Reports of one run after another, for one caller."""

    _numbers = itertools.count()

    def __init__(self, channel: grpc.aio.Channel, controller: str) -> None:
        self._stub = agent_pb2_grpc.AgentServiceStub(channel)
        self._controller = controller
        self._rng = np.random.default_rng(0)
        self._chunk = 0

    async def start(self) -> None:
        self._run_id = f"bench-{os.getpid()}-{next(self._numbers)}"
        self._chunk = 0
        await self._stub.StartRun(
            pb.StartRunRequest(controller=self._controller, run_id=self._run_id)
        )

    async def call(self) -> object:
        self._chunk += 1
        return await self._stub.ReportChunk(
            pb.ReportChunkRequest(
                run_id=self._run_id,
                chunk_index=self._chunk,
                losses=self._rng.uniform(0, 3, 20),
                scores=pb.Scores(training=0.5, validation=0.5),
            )
        )


def request_bytes() -> bytes:
    """Return a report of the usual size, for the echo."""
    return pb.ReportChunkRequest(
        run_id="bench-12345-123",
        chunk_index=100,
        losses=[1.2345] * 20,
        scores=pb.Scores(training=0.5, validation=0.5),
    ).SerializeToString()


async def median_seconds(call: Call) -> float:
    """Return the median time of one caller's calls, one after another."""
    for _ in range(20):
        await call()
    seconds = []
    for _ in range(ALONE):
        before = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


async def calls_a_second(calls: list[Call]) -> float:
    """Return how many calls are answered in a second, each caller one after another."""
    count = 0
    ends = time.perf_counter() + SECONDS

    async def keep_calling(call: Call) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await call()
            count += 1

    await asyncio.gather(*(keep_calling(call) for call in calls))
    return count / SECONDS


async def steady_p99(calls: list[Call]) -> float:
    """Return the 99th percentile of the time of calls that begin at RATE, whoever still waits."""
    seconds: list[float] = []
    free: asyncio.Queue[Call] = asyncio.Queue()
    for call in calls:
        free.put_nowait(call)
    begin = time.perf_counter()

    async def one(due: float) -> None:
        call = await free.get()
        await call()
        seconds.append(time.perf_counter() - due)
        free.put_nowait(call)

    tasks = []
    for number in range(int(RATE * STEADY_SECONDS)):
        due = begin + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return float(np.percentile(seconds, 99))


def synced_append(folder: Path) -> float:
    """Return the median time to append a decision's bytes to a file and sync it."""
    data = os.urandom(500)
    seconds = []
    with (folder / "appended").open("ab", buffering=0) as file:
        for _ in range(100):
            before = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


@contextmanager
def echo_server() -> Iterator[str]:
    """Give the address of an echo in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def reports(address: str, controller: str, callers: int) -> list[Call]:
    """Return the calls of so many callers, each with a run and a channel of its own."""
    made: list[Call] = []
    for _ in range(callers):
        channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        one = Reports(channel, controller)
        await one.start()
        made.append(one.call)
    return made


def echoes(address: str, callers: int) -> list[Call]:
    """Return the calls of so many callers of the echo."""
    data = request_bytes()

    def one() -> Call:
        channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return lambda: call(data)

    return [one() for _ in range(callers)]


async def measure(folder: Path) -> dict[str, float]:
    """Measure everything once."""
    figures = {"append_s": synced_append(folder)}
    with echo_server() as address:
        figures["echo_p50_s"] = await median_seconds(echoes(address, 1)[0])
        figures["echo_calls_per_s"] = await calls_a_second(echoes(address, CALLERS))
    for durability in Durability:
        name = durability.value
        store = folder / f"{name}-{time.monotonic_ns()}.db"
        with AgentProcess(store, "--durability", name) as agent:
            async with grpc.aio.insecure_channel(agent.address) as channel:
                stub = agent_pb2_grpc.AgentServiceStub(channel)
                for controller in (spec("waits", 1_000_000), spec("learns", 64)):
                    await stub.CreateController(
                        pb.CreateControllerRequest(spec=convert.spec_to_message(controller))
                    )
            (alone,) = await reports(agent.address, "waits", 1)
            figures[f"{name}_p50_s"] = await median_seconds(alone)
            many = await reports(agent.address, "waits", CALLERS)
            figures[f"{name}_calls_per_s"] = await calls_a_second(many)
            if durability is Durability.POWER:
                figures["quiet_p99_s"] = await steady_p99(many)
                learning = await reports(agent.address, "learns", CALLERS)
                figures["learning_p99_s"] = await steady_p99(learning)
    return figures


def ratios(figures: dict[str, float]) -> list[tuple[str, str, str]]:
    """Return what is claimed: the measure, its figure, and its bound."""
    f = figures
    overhead = (f["power_p50_s"] - f["echo_p50_s"] - f["append_s"]) * 1e3
    return [
        (
            "one caller, process: p50 to the echo's",
            f"{f['process_p50_s'] / f['echo_p50_s']:.2f}",
            "1.5 at most",
        ),
        (
            "one caller, power: p50 above the echo's and a synced append",
            f"{overhead:.2f} ms",
            "0.5 ms at most",
        ),
        (
            f"{CALLERS} callers, power: calls a second to the echo's",
            f"{f['power_calls_per_s'] / f['echo_calls_per_s']:.2f}",
            "0.7 at least",
        ),
        (
            f"p99 at {RATE:.0f} reports a second: while learning to without",
            f"{f['learning_p99_s'] / f['quiet_p99_s']:.2f}",
            "3 at most",
        ),
    ]


def main() -> None:
    """Measure, show the tables, and write the figures."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    console = Console()
    output = Path("bench-results")
    output.mkdir(exist_ok=True)
    with (output / "servers.log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # what servers say would tear the progress bar
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        rounds = [
            asyncio.run(measure(Path(folder)))
            for _ in track(range(ROUNDS), "measuring", console=console)
        ]
    medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    measured = Table(title=f"medians of {ROUNDS} rounds")
    for column in ("measure", "median", "lowest", "highest"):
        measured.add_column(column)
    for name, median in medians.items():
        values = [r[name] for r in rounds]
        shown = [
            f"{v * 1e3:.2f} ms" if name.endswith("_s") and "per" not in name else f"{v:.0f}"
            for v in (median, min(values), max(values))
        ]
        measured.add_row(name, *shown)
    claims = Table(title="ratios")
    for column in ("claim", "measured", "bound"):
        claims.add_column(column)
    for row in ratios(medians):
        claims.add_row(*row)
    console.print(measured, claims)
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    content = {"machine": machine, "medians": medians, "rounds": rounds}
    (output / "agent.json").write_text(json.dumps(content, indent=2))
    console.print(str(output / "agent.json"))


if __name__ == "__main__":
    main()
