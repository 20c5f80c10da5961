"""One update of 2,048 transitions: the learner's, reading and publishing included, and PPO's own.

A process of its own, with one thread, as the learner is. Prints the two times in seconds.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from agent_service.client import ControllerSpec, Hyperparameter, PPOSettings, Reward
from agent_service.domain.rewards import Scores
from agent_service.domain.runs import ChunkReport, Mode, StartRun
from agent_service.domain.store import Durability
from agent_service.learning import sb3
from agent_service.learning.learner import Learner
from agent_service.learning.policy_file import from_bytes
from agent_service.learning.rollout import segments
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore

TRANSITIONS = 2048
RUNS = 32
SPEC = ControllerSpec(
    name="bench",
    hyperparameters=(Hyperparameter(name="dropout", low=0.0, high=0.9),),
    reward=Reward.VALIDATION,
    algorithm=PPOSettings(rollout_size=TRANSITIONS),
)


def fill(store: SqlStore) -> None:
    """Have as many transitions wait as two updates take."""
    Catalog(store).create_controller(SPEC, Mode.LEARNING).result()
    run_service = RunService(store, metrics=DecisionMetrics(CollectorRegistry()))
    rng = np.random.default_rng(0)
    for number in range(RUNS):
        run_service.start_run(StartRun(controller="bench", run_id=f"r{number}", labels={})).result()
    for chunk in range(1, 2 * TRANSITIONS // RUNS + 3):
        for number in range(RUNS):
            run_service.report_chunk(
                ChunkReport(
                    run_id=f"r{number}",
                    chunk=chunk,
                    losses=rng.uniform(0, 3, 20),
                    feedback=Scores(training=0.5, validation=float(rng.uniform())),
                )
            ).result()


def own_time(session: Session) -> float:
    """Return the time of stable-baselines3's train() alone, on the transitions that wait."""
    controller = session.find_controller("bench")
    assert controller is not None
    ready = session.ready_transitions(controller, limit=TRANSITIONS)
    policy = session.find_policy(controller, controller.policy_version)
    assert policy is not None
    arrays = dict(from_bytes(policy.data, SPEC).arrays)
    model = sb3._build(SPEC, arrays)
    model.rollout_buffer = sb3._rollout(model, arrays, segments(ready, SPEC))
    began = time.perf_counter()
    model.train()
    return time.perf_counter() - began


def main(folder: Path) -> None:
    """Print the learner's time, and PPO's own on the same data just before and after."""
    torch.set_num_threads(1)
    with SqlStore(f"sqlite:///{folder}/update.db", durability=Durability.PROCESS) as store:
        fill(store)
        # What a learner does once, when it has just begun, is not counted.
        assert Learner().take_turn(store)
        own = [store.read(own_time)]
        own.append(store.read(own_time))
        began = time.perf_counter()
        assert Learner().take_turn(store)
        learner = time.perf_counter() - began
        print(learner, sum(own) / len(own))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
