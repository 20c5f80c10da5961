"""Many short runs on a store, without a service: a log to read afterwards."""

import numpy as np
import safetensors.numpy
from prometheus_client import CollectorRegistry

from agent_service.domain.rewards import GivenReward
from agent_service.domain.runs import ChunkReport, FinishRun, Mode, Outcome, StartRun
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.policy_file import to_bytes
from agent_service.learning.snapshot import PolicySnapshot
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.store import SqlStore

CHUNKS = 3


def create(store: SqlStore, spec: ControllerSpec) -> Catalog:
    catalog = Catalog(store)
    catalog.create_controller(spec, Mode.LEARNING).result()
    return catalog


def opinionated(spec: ControllerSpec, data: bytes) -> bytes:
    """Return a policy whose mean action lies high, and follows the losses."""
    arrays = safetensors.numpy.load(data)
    arrays["action_net.weight"] *= np.float32(10)
    arrays["action_net.bias"] += np.float32(0.3)
    return to_bytes(PolicySnapshot(arrays), spec, policy_version=2)


def train_all(
    store: SqlStore,
    controller: str,
    *,
    runs: int,
    mode: Mode | None = None,
    prefix: str = "",
) -> None:
    """Run short trainings.

    A chunk's losses rise with the value that it runs under, and its reward is best at 0.6 early
    and at 0.3 later, less for a high first loss: what an action does outlives its chunk.
    """
    run_service = RunService(store, metrics=DecisionMetrics(CollectorRegistry()))
    names = [f"{prefix or controller}-{number}" for number in range(runs)]
    starts = [StartRun(controller=controller, run_id=n, mode=mode, labels={}) for n in names]
    decisions = [future.result() for future in [run_service.start_run(s) for s in starts]]
    rng = np.random.default_rng(11)
    levels = np.ones(runs)
    for chunk in range(1, CHUNKS + 1):
        values = np.array([decision.values["dropout"] for decision in decisions])
        rewards = 1 - 4 * (values - (0.6 if chunk < CHUNKS else 0.3)) ** 2 - 0.3 * levels
        levels = 0.5 * levels + values
        losses = levels[:, None] + 0.1 * rng.standard_normal((runs, 4))
        reports = [
            ChunkReport(run_id=n, chunk=chunk, losses=row, feedback=GivenReward(float(r)))
            for n, row, r in zip(names, losses, rewards, strict=True)
        ]
        decisions = [future.result() for future in [run_service.report_chunk(r) for r in reports]]
    ends = [FinishRun(run_id=name, outcome=Outcome.TERMINATED) for name in names]
    for future in [run_service.finish_run(end) for end in ends]:
        future.result()
