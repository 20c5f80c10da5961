"""Capacity of an agent service, by live runs and stored rows.

The load comes from simulated children, in processes of their own, and learning is on; what a
decision costs in a long run and beside many runs is measured as `bench_agent` does it.
`make bench-capacity` shows the tables; ROWS=100000 makes a smaller store, to try.
"""

import asyncio
import secrets
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress

from agent_service.domain.store import Durability
from tests.benchmarks import bench_agent, load
from tests.benchmarks.filled_store import decide_template, fill
from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.benchmarks.simulated_load import Load, Noted, simulate
from tests.end_to_end.processes import AgentProcess

ROUNDS = 3
RATE = 1000.0
"""Reports a second, as the claims have it."""
LIVE_RUNS = {100: 5.0, 1_000: 5.0, 10_000: 20.0}
"""And for how many seconds they report at that rate."""
ROLLOUT = 2048
CALLERS = 64
"""Live runs of a service that answers as many reports as it can."""
SECONDS = 6.0
PAIRS = 300


@dataclass(frozen=True)
class Filled:
    """A service on a store of many rows."""

    agent: AgentProcess
    rows: int
    bytes_a_row: float
    start_seconds: float
    """From the command to serving: it checks the file's structure first."""
    first_scrape_seconds: float
    """Of the first page of metrics, for which rows are counted."""


@dataclass(frozen=True)
class Used:
    """Resources that a load took of a service."""

    memory_mb: dict[str, float]
    """Resident MiB at the load's end, of `server` and `learner`."""
    cpu_seconds: dict[str, float]
    """Of a processor, of each of them, from when all runs were started."""


def drive(
    agent: AgentProcess,
    *,
    runs: int,
    rate: float | None,
    seconds: float,
    over_streams: bool = False,
) -> tuple[Noted, Used]:
    """Load a service with simulated children under a controller of its own, which learns."""
    name = f"load-{secrets.token_hex(4)}"
    processes = {"server": psutil.Process(agent.process.pid)}
    # Of what the server starts, multiprocessing's own tracker is no learner.
    (processes["learner"],) = (
        child
        for child in processes["server"].children()
        if "spawn_main" in " ".join(child.cmdline())
    )
    asyncio.run(load.create(agent.address, bench_agent.spec(name, ROLLOUT)))
    before: dict[str, float] = {}
    asked = Load(
        agent=agent.address,
        controller=name,
        runs=runs,
        rate=rate,
        seconds=seconds,
        over_streams=over_streams,
    )
    noted = simulate(asked, begun=lambda: before.update(_all_cpu_seconds(processes)))
    return noted, Used(
        {role: p.memory_info().rss / 2**20 for role, p in processes.items()},
        {role: s - before[role] for role, s in _all_cpu_seconds(processes).items()},
    )


def _all_cpu_seconds(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    times = {role: process.cpu_times() for role, process in processes.items()}
    return {role: float(used.user + used.system) for role, used in times.items()}


def live_runs(folder: Path) -> Figures:
    """Measure reports at a steady rate from few live runs and from many."""
    figures: Figures = {}
    for runs, seconds in LIVE_RUNS.items():
        with AgentProcess(folder / f"runs-{runs}.db") as agent:
            noted, used = drive(agent, runs=runs, rate=RATE, seconds=seconds)
        figures |= {
            f"memory_{runs}_runs_mb": used.memory_mb["server"],
            f"p50_{runs}_runs_s": noted.quantile(0.5),
            f"p99_{runs}_runs_s": noted.quantile(0.99),
        }
    return figures | {
        "p999_10000_runs_s": noted.quantile(0.999),
        "rate_10000_runs_per_s": noted.decisions_per_second,
        "learner_memory_mb": used.memory_mb["learner"],
        "errors_10000_runs": float(noted.errors.total()),
    }


def streams(folder: Path) -> Figures:
    """Measure reports at the same rate from many live runs, over streams."""
    runs, seconds = max(LIVE_RUNS.items())
    with AgentProcess(folder / "streams.db") as agent:
        noted, used = drive(agent, runs=runs, rate=RATE, seconds=seconds, over_streams=True)
    return {
        "p99_streams_s": noted.quantile(0.99),
        "server_cpu_streams_s": used.cpu_seconds["server"] / len(noted.latencies),
    }


def most(folder: Path) -> Figures:
    """Measure as many reports as one service answers, and what each costs."""
    path = folder / "most.db"
    with AgentProcess(path) as agent:
        noted, used = drive(agent, runs=CALLERS, rate=None, seconds=SECONDS)
    decisions = len(noted.latencies)
    # By the file that is left, since a short load's growth is mostly the write-ahead log's.
    return {
        "most_per_s": noted.decisions_per_second,
        "server_cpu_s": used.cpu_seconds["server"] / decisions,
        "learner_cpu_s": used.cpu_seconds["learner"] / decisions,
        "store_bytes_a_decision": path.stat().st_size / decisions,
    }


async def rows(few: AgentProcess, filled: Filled) -> Figures:
    """Measure a report on a new store and on one of many rows, in turn; and a scrape of each."""
    (one,) = await load.callers(few.address, "waits", 1)
    (other,) = await load.callers(filled.agent.address, "waits", 1)
    for _ in range(20):
        await one.call()
        await other.call()
    new, full = await load.paired_medians(one.call, other.call, times=PAIRS)
    return {
        "empty_store_s": new,
        "filled_store_s": full,
        "filled_store_memory_mb": filled.agent.memory(),
        "empty_store_scrape_s": await asyncio.to_thread(scrape_seconds, few),
        "filled_store_scrape_s": await asyncio.to_thread(scrape_seconds, filled.agent),
    }


def scrape_seconds(agent: AgentProcess) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(agent.metrics) as page:
        page.read()
    return time.perf_counter() - began


@contextmanager
def filled_store(folder: Path, count: int, console: Console) -> Iterator[Filled]:
    """Give a service on a store that was filled with so many decisions."""
    path = folder / "filled.db"
    options = ("--durability", Durability.PROCESS.value)
    with AgentProcess(path, *options) as agent:
        asyncio.run(load.create(agent.address, bench_agent.WAITS))
        decide_template(agent.address, bench_agent.WAITS.name)
    with Progress(console=console) as bars:
        task = bars.add_task("rows of the filled store", total=count)
        made = fill(path, rows=count, told=lambda done: bars.update(task, completed=done))
    began = time.perf_counter()
    with AgentProcess(path, *options) as agent:
        seconds = time.perf_counter() - began
        size = path.stat().st_size / made
        yield Filled(agent, made, size, seconds, scrape_seconds(agent))


async def measure(folder: Path, *, filled: Filled) -> Figures:
    figures = {
        "rows": float(filled.rows),
        "row_bytes": filled.bytes_a_row,
        "filled_store_start_s": filled.start_seconds,
        "filled_store_first_scrape_s": filled.first_scrape_seconds,
    }
    async with (
        bench_agent.serving(folder, Durability.PROCESS) as agent,
        bench_agent.serving(folder, Durability.PROCESS) as lots,
    ):
        figures |= await rows(agent, filled)
        figures |= await bench_agent.long_run(agent.address)
        figures |= await bench_agent.many_runs(agent, lots)
    for part in (live_runs, streams, most):
        figures |= await asyncio.to_thread(part, folder)
    return figures


def claims(f: Figures) -> list[Claim]:
    of_rows = f["filled_store_s"] / f["empty_store_s"]
    return [
        Claim("memory at 10,000 live runs", f["memory_10000_runs_mb"], most=300, unit="MiB"),
        Claim("p99 at 1,000 reports a second", f["p99_10000_runs_s"] * 1e3, most=50, unit="ms"),
        Claim("reports that failed", f["errors_10000_runs"], most=0),
        Claim("10,000th chunk to the 100th", f["chunk_10000_s"] / f["chunk_100_s"], most=1.1),
        Claim("10,000th live run to the 10th", f["run_10000_s"] / f["run_10_s"], most=1.1),
        Claim(f"store of {f['rows']:,.0f} rows to a new one", of_rows, most=1.1),
    ]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with (
        tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder,
        filled_store(Path(folder), count, Console()) as filled,
    ):
        show_rounds("capacity", partial(measure, filled=filled), claims, rounds=ROUNDS)


if __name__ == "__main__":
    main()
