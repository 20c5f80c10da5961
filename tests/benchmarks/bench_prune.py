"""The cost of pruning for reports meanwhile, its speed, and the size of its files.

One caller reports to a real service without a pause, first alone and then while the real command
prunes its store: each report's time from the call to the answer. The steps that others wait for are
timed in a prune of the same runs by itself.
"""

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import numpy as np

from agent_service.analysis.prune import BATCH, Pruner, make_plan
from agent_service.client import AgentClient, RandomSettings
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import ChunkReport
from agent_service.domain.store import Durability
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.trainings import Trainings
from tests.agent_service.specs import spec
from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.end_to_end.processes import AgentProcess, command_of

T = TypeVar("T")
ROUNDS = 3
RUNS, CHUNKS, LOSSES = 200, 250, 20
ALONE_REPORTS = 2_000


class _TimedStore(SqlStore):
    """Notes how long each step takes that others wait for."""

    steps: list[float]

    def write(self, work: Callable[[Session], T], *, run_id: str | None = None) -> Future[T]:
        began = time.perf_counter()
        future = super().write(work, run_id=run_id)
        self.steps.append(time.perf_counter() - began)
        return future


def fill(path: Path) -> None:
    """Make a store of finished runs, with losses as random as real ones."""
    rng = np.random.default_rng(1)
    with SqlStore(f"sqlite:///{path}", durability=Durability.PROCESS) as store:
        trainings = Trainings(store)
        trainings.create(spec(algorithm=RandomSettings(), chunk_size=LOSSES))
        for run_id in (f"r{number}" for number in range(RUNS)):
            trainings.start(run_id, "c")
            for chunk in range(1, CHUNKS + 1):
                training, validation = rng.uniform(size=2).tolist()
                scores = Scores(training=training, validation=validation)
                losses = rng.uniform(size=LOSSES)
                trainings.run_service.report_chunk(
                    ChunkReport(run_id=run_id, chunk=chunk, losses=losses, feedback=scores)
                ).result()
            trainings.finish(run_id)


def reports(client: AgentClient, until: Callable[[int], bool]) -> list[float]:
    """Report until told to stop; return each report's seconds."""
    seconds: list[float] = []
    with client.run("c") as run:
        while not until(len(seconds)):
            began = time.perf_counter()
            run.report_chunk([1.0] * LOSSES, training_score=0.5, validation_score=0.5)
            seconds.append(time.perf_counter() - began)
    return seconds


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


def measure(folder: Path) -> Figures:
    """Prune once by itself, and once while a caller reports."""
    path, quiet = folder / "agent.db", folder / "quiet.db"
    fill(path)
    shutil.copy(path, quiet)
    with _TimedStore(f"sqlite:///{quiet}") as store:
        pruner = Pruner(store, folder / "quiet")
        with pruner.pruning():
            store.steps = []
            began = time.perf_counter()
            plan = make_plan(store, before=time.time())
            planned = time.perf_counter()
            pruner.prune(plan, progress=lambda _count: None)
            ended = time.perf_counter()
    archived = sum(path.stat().st_size for path in (folder / "quiet").glob("*.parquet"))
    with AgentProcess(path) as agent, AgentClient(agent.address) as client:
        alone = reports(client, lambda count: count >= ALONE_REPORTS)
        words = ["prune", "--store", agent.url, "--older-than", "1d"]
        words += ["--archive", str(folder / "archive")]
        pruning = subprocess.Popen(
            [*command_of("agent_service"), *words], stdout=subprocess.DEVNULL
        )
        beside = reports(client, lambda _count: pruning.poll() is not None)
        assert pruning.returncode == 0
    return {
        "plan_s": planned - began,
        "step_median_s": statistics.median(store.steps),
        "step_longest_s": max(store.steps),
        "decisions_per_s": plan.decisions / (ended - planned),
        "store_bytes_a_decision": quiet.stat().st_size / plan.decisions,
        "archive_bytes_a_decision": archived / plan.decisions,
        "report_alone_p99_s": p99(alone),
        "report_beside_p99_s": p99(beside),
        "report_beside_longest_s": max(beside),
    }


def claims(figures: Figures) -> list[Claim]:
    what = f"a step of {BATCH} decisions, in ms"
    return [Claim(what, figures["step_median_s"] * 1e3, most=50)]


if __name__ == "__main__":
    show_rounds("prune", measure, claims, rounds=ROUNDS)
