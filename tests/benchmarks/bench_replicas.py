"""Reports a second, latency and processor time on PostgreSQL and with a second replica.

Three services one after the other in each round, under the same simulated load: one on SQLite,
one on PostgreSQL, two on PostgreSQL. All share the machine's cores with the load and the server.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.benchmarks.bench_agent import WAITS
from tests.benchmarks.load import create
from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.benchmarks.simulated_load import Load, simulate
from tests.end_to_end.processes import AgentProcess
from tests.postgresql import running_server

ROUNDS = 5
RUNS = 64
SECONDS = 10


@contextmanager
def agents(url: str, *, count: int) -> Iterator[list[AgentProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(AgentProcess(url)) for _ in range(count)]


def load(agents: list[AgentProcess], name: str) -> Figures:
    addresses = ",".join(agent.address for agent in agents)
    address = addresses if len(agents) == 1 else f"ipv4:{addresses}"
    before = [_processor_seconds(agent) for agent in agents]
    asyncio.run(create(agents[0].address, WAITS))  # it learns nothing meanwhile
    noted = simulate(Load(agent=address, controller=WAITS.name, runs=RUNS, seconds=SECONDS))
    after = [_processor_seconds(agent) for agent in agents]
    assert not noted.errors, noted.errors
    used = (sum(after) - sum(before)) / len(noted.latencies)
    return {
        f"{name}: reports per_s": noted.decisions_per_second,
        f"{name}: p50_s": noted.quantile(0.5),
        f"{name}: p99_s": noted.quantile(0.99),
        f"{name}: agents' processor, a report_s": used,
    }


def _processor_seconds(agent: AgentProcess) -> float:
    times = psutil.Process(agent.process.pid).cpu_times()
    return float(times.user + times.system)


def measure(folder: Path) -> Figures:
    figures: Figures = {}
    with agents(f"sqlite:///{folder}/agent.db", count=1) as one:
        figures |= load(one, "SQLite")
    # The server is another user, who has to get to its folder.
    with TemporaryDirectory(prefix="postgresql-") as place:
        Path(place).chmod(0o755)
        with running_server(Path(place) / "server", syncs=True) as server:
            for count, name in ((1, "PostgreSQL"), (2, "two on PostgreSQL")):
                with agents(server.new_database(), count=count) as several:
                    figures |= load(several, name)
    return figures


def claims(medians: Figures) -> list[Claim]:
    """Two replicas are worth 1.6 of one, where cores allow it."""
    one, two = (medians[f"{n}: reports per_s"] for n in ("PostgreSQL", "two on PostgreSQL"))
    what = f"two replicas' reports to one's, on {os.cpu_count()} cores that all share"
    return [Claim(what, two / one, least=1.6)]


if __name__ == "__main__":
    show_rounds("replicas", measure, claims, rounds=ROUNDS)
