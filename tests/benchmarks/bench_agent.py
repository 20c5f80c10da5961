"""How fast the agent service answers, as ratios to references that are measured in the same run.

References: a bare gRPC echo of the same bytes, by calls and over streams, one synced append to the
same disk, and stable-baselines3's own train(). Servers are processes of their own, and so is the
load, which is this one. `make bench-agent` shows the tables and writes the figures as JSON.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np

from agent_service.client import (
    AgentClient,
    ControllerSpec,
    FleetReport,
    Hyperparameter,
    PPOSettings,
    Reward,
    Scores,
)
from agent_service.domain.store import Durability
from tests.benchmarks import load
from tests.benchmarks.results import Claim, Figures, show_rounds
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
LONG_RUN, MANY_RUNS = 10_000, 10_000
PAIRS = 300
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=0.9)


def spec(name: str, rollout_size: int) -> ControllerSpec:
    """Return a controller with chunks of 20, as in the paper."""
    return ControllerSpec(
        name=name,
        hyperparameters=(DROPOUT,),
        reward=Reward.VALIDATION,
        algorithm=PPOSettings(rollout_size=rollout_size),
    )


WAITS, LEARNS = spec("waits", 50_000), spec("learns", 64)


@asynccontextmanager
async def serving(folder: Path, durability: Durability) -> AsyncIterator[AgentProcess]:
    """Give an agent service with a new store and its controllers."""
    name = durability.value
    store = folder / f"{name}-{time.monotonic_ns()}.db"
    with AgentProcess(store, "--durability", name) as agent:
        await load.create(agent.address, WAITS, LEARNS)
        yield agent


def synced_append(folder: Path) -> Figures:
    data = os.urandom(500)
    seconds = []
    with (folder / "appended").open("ab", buffering=0) as file:
        for _ in range(100):
            before = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - before)
    return {"append_s": statistics.median(seconds)}


async def echo(address: str) -> Figures:
    (alone,) = load.echoes(address, 1)
    return {
        "echo_p50_s": await load.median_seconds(alone, times=ALONE),
        "echo_per_s": await load.calls_a_second(load.echoes(address, CALLERS), seconds=SECONDS),
        "echo_stream_per_s": await load.calls_a_second(
            load.stream_echoes(address, CALLERS), seconds=SECONDS
        ),
    }


async def alone(address: str, name: str) -> Figures:
    (caller,) = await load.callers(address, "waits", 1)
    return {f"{name}_p50_s": await load.median_seconds(caller.call, times=ALONE)}


async def many(address: str) -> Figures:
    callers = await load.callers(address, "waits", CALLERS)
    calls = await load.calls_a_second([caller.call for caller in callers], seconds=SECONDS)
    for caller in callers:
        caller.open_stream()
    streams = await load.calls_a_second([caller.send for caller in callers], seconds=SECONDS)
    return {"power_per_s": calls, "power_stream_per_s": streams}


async def steady(address: str, controller: str, name: str) -> Figures:
    """Measure the slow calls of a steady load."""
    callers = await load.callers(address, controller, CALLERS)
    calls = [caller.call for caller in callers]
    taken = await load.steady_seconds(calls, rate=RATE, seconds=STEADY_SECONDS)
    return {f"{name}_p99_s": float(np.percentile(taken, 99)), f"{name}_longest_s": max(taken)}


def fleet(address: str) -> Figures:
    """Measure this project's client: a fleet's reports over its stream, and by calls in turn."""
    with AgentClient(address) as client:
        runs = [client.run("waits") for _ in range(CALLERS)]
        scores = Scores(training=0.5, validation=0.5)
        reports = [FleetReport(run=run, losses=[1.0] * 20, feedback=scores) for run in runs]
        began = time.perf_counter()
        for run in runs:
            run.report_chunk([1.0] * 20, training_score=0.5, validation_score=0.5)
        by_calls = time.perf_counter() - began
        with client.report_stream() as stream:
            stream.report(reports)
            began = time.perf_counter()
            for _ in range(5):
                assert not any(stream.report(reports))
            by_stream = (time.perf_counter() - began) / 5
    return {"fleet_calls_s": by_calls, "fleet_stream_s": by_stream}


async def long_run(address: str) -> Figures:
    """Measure the 100th chunk of a run and the 10,000th, in turn."""
    short, long = await load.callers(address, "waits", 2)
    long.open_stream()
    while long.chunk < LONG_RUN - PAIRS // 2:
        await long.send()
    while short.chunk < 100 - PAIRS // 4:
        await short.call()
    hundredth, last = await load.paired_medians(short.call, long.call, times=PAIRS)
    return {"chunk_100_s": hundredth, "chunk_10000_s": last}


async def many_runs(few: AgentProcess, lots: AgentProcess) -> Figures:
    """Measure a new run and its first chunk beside ten live ones and beside ten thousand."""
    (one,) = await load.callers(few.address, "waits", 1)
    (other,) = await load.callers(lots.address, "waits", 1)
    for _ in range(9):
        await one.start()
    starters = await load.callers(lots.address, "waits", CALLERS)

    async def start_some(caller: load.Caller) -> None:
        for _ in range(MANY_RUNS // CALLERS):
            await caller.start()

    await asyncio.gather(*map(start_some, starters))
    tenth, last = await load.paired_medians(
        one.start_and_report, other.start_and_report, times=PAIRS
    )
    megabytes = lots.memory()
    return {"run_10_s": tenth, "run_10000_s": last, "memory_10000_runs_mb": megabytes}


def cold_start(folder: Path) -> Figures:
    """Measure from the command to the line that says that it serves, on a store that is there."""
    agent = AgentProcess(folder / "cold.db")
    for _ in range(2):
        began = time.perf_counter()
        with agent:
            seconds = time.perf_counter() - began
    return {"cold_start_s": seconds}


def update(folder: Path) -> Figures:
    """Measure one update of 2,048 transitions against stable-baselines3's own."""
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        command = [sys.executable, "-m", "tests.benchmarks.update_time", inner]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    learner, own = map(float, shown.split())
    return {"update_s": learner, "train_s": own}


@contextmanager
def echo_server(style: str = "asyncio") -> Iterator[str]:
    """Give the address of an echo in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", style]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def measure(folder: Path) -> Figures:
    figures = synced_append(folder)
    with echo_server() as address:
        figures |= await echo(address)
    async with serving(folder, Durability.PROCESS) as agent:
        figures |= await alone(agent.address, "process")
        figures |= await long_run(agent.address)
        figures |= await asyncio.to_thread(fleet, agent.address)
        async with serving(folder, Durability.PROCESS) as lots:
            figures |= await many_runs(agent, lots)
    async with serving(folder, Durability.POWER) as agent:
        figures |= await alone(agent.address, "power")
        figures |= await many(agent.address)
        figures |= await steady(agent.address, "waits", "quiet")
        figures |= await steady(agent.address, "learns", "learning")
    return figures | cold_start(folder) | update(folder)


def claims(f: Figures) -> list[Claim]:
    overhead = f["power_p50_s"] - f["echo_p50_s"] - f["append_s"]
    of_streams = f["power_stream_per_s"] / f["echo_stream_per_s"]
    learning = f["learning_p99_s"] / f["quiet_p99_s"]
    by_stream = f["fleet_calls_s"] / f["fleet_stream_s"]
    return [
        Claim("process: p50 to the echo's", f["process_p50_s"] / f["echo_p50_s"], most=1.5),
        Claim("power: p50 above echo and append", overhead * 1e3, most=0.5, unit="ms"),
        Claim("64 callers: calls to the echo's", f["power_per_s"] / f["echo_per_s"], least=0.7),
        Claim("64 streams: messages to the echo's", of_streams, least=0.6),
        Claim("p99 at 500 a second: learning to not", learning, most=3),
        Claim("longest call while learning", f["learning_longest_s"] * 1e3, most=250, unit="ms"),
        Claim("10,000th chunk to the 100th", f["chunk_10000_s"] / f["chunk_100_s"], most=1.1),
        Claim("10,000th live run to the 10th", f["run_10000_s"] / f["run_10_s"], most=1.1),
        Claim("memory at 10,000 live runs", f["memory_10000_runs_mb"], most=300, unit="MiB"),
        Claim("update of 2,048 to train() alone", f["update_s"] / f["train_s"], most=1.15),
        Claim("cold start", f["cold_start_s"], most=3, unit="s"),
        Claim("64 reports of a fleet: calls to stream", by_stream, least=1),
    ]


def main() -> None:
    show_rounds("agent", measure, claims, rounds=ROUNDS)


if __name__ == "__main__":
    main()
