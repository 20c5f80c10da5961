"""Stores with runs of any age, made without a service, and what they hold in all."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from prometheus_client import CollectorRegistry

from agent_service.analysis.records import FIELDS, transition_record
from agent_service.analysis.tables import flat
from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import ChunkReport, Decision, FinishRun, Mode, Outcome, StartRun
from agent_service.domain.specs import ControllerSpec
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.capacity import DEFAULT, Capacity
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.store import SqlStore
from agent_service.wire.convert import transition_to_message
from tests.agent_service.specs import DROPOUT, NOISE, spec

SPECS = (
    spec("random", RandomSettings(), hyperparameters=(NOISE, DROPOUT), diverged_reward=-1.0),
    spec("constant", ConstantSettings(values={"dropout": 0.3})),
    spec("ppo", PPOSettings(observe_action=True)),
)
LEASE = 60.0
LOSSES = np.array([0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308])

Content = dict[int, dict[str, Any]]
"""Transitions by their position: cells by column."""


class Trainings:
    """Trains children on a store at any time of the past."""

    def __init__(self, store: SqlStore, *, capacity: Capacity = DEFAULT) -> None:
        self.now = 1_000_000.0
        self.store = store
        self.catalog = Catalog(store)
        self.run_service = RunService(
            store,
            metrics=DecisionMetrics(CollectorRegistry()),
            capacity=capacity,
            clock=lambda: self.now,
        )

    def create(self, *specs: ControllerSpec) -> None:
        for one in specs or SPECS:
            self.catalog.create_controller(one, Mode.LEARNING).result()

    def start(self, run_id: str, controller: str = "random", mode: Mode | None = None) -> Decision:
        labels = {"seed": run_id}
        start = StartRun(controller=controller, run_id=run_id, mode=mode, labels=labels)
        return self.run_service.start_run(start).result()

    def report(self, run_id: str, chunk: int, *, training: float = 0.5) -> Decision:
        scores = Scores(training=training, validation=chunk / 50)
        applied = {"noise": 0.5, "dropout": 0.0} if run_id.endswith("applied") else None
        losses = LOSSES / chunk
        return self.run_service.report_chunk(
            ChunkReport(run_id=run_id, chunk=chunk, losses=losses, feedback=scores, applied=applied)
        ).result()

    def finish(self, run_id: str, outcome: Outcome = Outcome.TERMINATED) -> None:
        self.run_service.finish_run(FinishRun(run_id=run_id, outcome=outcome)).result()

    def train(
        self, run_id: str, *, chunks: int = 3, controller: str = "random", mode: Mode | None = None
    ) -> None:
        """Train a child from its start to its end."""
        self.start(run_id, controller, mode)
        for chunk in range(1, chunks + 1):
            self.report(run_id, chunk)
        self.finish(run_id)

    def abandon(self) -> None:
        """Abandon all runs that are active, a lease later."""
        self.now += LEASE + 1
        self.run_service.abandon_silent_runs(lease=LEASE).result()


def many(trainings: Trainings, rng: random.Random, prefix: str, *, runs: int) -> None:
    """Train children of all kinds, each some time after the one before, most with an end."""
    for number in range(runs):
        trainings.now += rng.uniform(1, 1000)
        kind = rng.choice(["finish", "finish", "diverge", "abandon", "active"])
        name = f"{prefix}-{number}-{rng.choice(['', 'applied'])}"
        controller, mode = rng.choice([("random", None), ("ppo", Mode.FROZEN), ("constant", None)])
        if name.endswith("applied"):
            controller, mode = "random", None
        trainings.start(name, controller, mode)
        for chunk in range(1, rng.randrange(6) + 1):
            trainings.report(name, chunk)
        if kind in ("finish", "diverge"):
            trainings.finish(
                name, Outcome.DIVERGED if kind == "diverge" else rng.choice(list(Outcome))
            )
        elif kind == "abandon":
            trainings.abandon()


def in_store(store: SqlStore) -> Content:
    """Return all transitions that the store's log shows."""
    found = store.read(
        lambda session: list(
            session.transitions(controller="", run_id="", after=0, limit=1_000_000)
        )
    )
    return _content(transition_record(transition_to_message(*each)) for each in found)


def in_archive(folder: Path) -> Content:
    """Return all that the files of an archive have; parts of files count for nothing."""
    tables = map(pyarrow.parquet.read_table, sorted(folder.glob("*.parquet")))
    return _content(row for table in tables for row in table.to_pylist())


def _content(records: Iterable[Mapping[str, Any]]) -> Content:
    """Return records by position, as a table has them; fail where one is there twice."""
    content: Content = {}
    for record in records:
        cells: dict[str, Any] = {}
        for field, value in record.items():
            cells |= (
                flat(field, FIELDS[field], value) if isinstance(value, dict) else {field: value}
            )
        assert record["position"] not in content
        content[record["position"]] = cells
    return content


def in_both(store: SqlStore, folder: Path) -> Content:
    """Return all that store and archive have; fail where they have anything in common."""
    there, here = in_store(store), in_archive(folder)
    assert not there.keys() & here.keys()
    return there | here
