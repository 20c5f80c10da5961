"""It learns: through real gRPC and the real learner process, on a child whose optimum is known."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from agent_service.client import AgentClient
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, PPOSettings, RandomSettings
from tests.end_to_end.processes import AgentProcess
from trainer_service.simulation import HIGHEST_RATE, SimulatedChild

RUNS = 8
ROLLOUT = PPOSettings().rollout_size
TRANSITIONS = 15_000
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=HIGHEST_RATE)
AT_ONCE = threading.Event()
AT_ONCE.set()


def train(client: AgentClient, controller: str, seed: int, pace: threading.Event) -> float:
    """Train one simulated child under a controller; return its return."""
    child, total = SimulatedChild(seed=seed), 0.0
    with client.run(controller, run_id=f"{controller}-{seed}") as run:
        while not child.finished:
            pace.wait()
            chunk = child.step(run.hyperparameters["dropout"])
            total += chunk.validation_score
            run.report_chunk(
                chunk.losses.tolist(),
                training_score=chunk.training_score,
                validation_score=chunk.validation_score,
            )
    return total


def learn(client: AgentClient, controller: str, seeds: Iterator[int]) -> None:
    """Keep RUNS children training until enough transitions were learned from.

    A real child's chunk takes seconds, an update far less: the learner keeps up. A simulated chunk
    takes no time, so the children wait here while more than a rollout is ready to be learned from.
    """
    enough, pace = threading.Event(), threading.Event()

    def keep_training() -> None:
        while not enough.is_set():
            train(client, controller, next(seeds), pace)

    def watch() -> None:
        while not any(future.done() for future in futures):
            now = client.get_controller(controller)
            if now.learned_transitions >= TRANSITIONS:
                return
            if now.ready_transitions < ROLLOUT:
                pace.set()
            else:
                pace.clear()
            time.sleep(0.02)

    with ThreadPoolExecutor(RUNS) as pool:
        futures = [pool.submit(keep_training) for _ in range(RUNS)]
        try:
            watch()
        finally:
            enough.set()
            pace.set()
        for future in futures:
            future.result()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_shared_controller_learns_to_adapt(tmp_path: Path, seed: int) -> None:
    """8 runs share a controller; frozen, it goes 90% of the way from random rates to the optimum.

    The best constant rate does not: only a policy that adapts can.
    """
    spec = ControllerSpec(
        name="ppo", hyperparameters=(DROPOUT,), reward=Reward.VALIDATION, seed=seed
    )
    child = SimulatedChild()
    with AgentProcess(tmp_path / "agent.db") as agent, AgentClient(agent.address) as client:
        client.create_controller(spec)
        learn(client, "ppo", itertools.count(1000 * seed))
        client.set_mode("ppo", Mode.FROZEN)
        returns = [train(client, "ppo", 900_000 + i, AT_ONCE) for i in range(10)]
    best_constant = child.constant_return(child.best_constant_rate())

    assert child.way_to_optimum(float(np.mean(returns))) >= 0.9
    assert child.way_to_optimum(best_constant) < 0.9


def test_the_random_controller_is_the_floor(tmp_path: Path) -> None:
    """Its mean return is the closed form's, so `way_to_optimum` starts where it should."""
    spec = ControllerSpec(
        name="random",
        hyperparameters=(DROPOUT,),
        reward=Reward.VALIDATION,
        algorithm=RandomSettings(),
    )
    with AgentProcess(tmp_path / "agent.db") as agent, AgentClient(agent.address) as client:
        client.create_controller(spec)
        with ThreadPoolExecutor(RUNS) as pool:
            returns = list(pool.map(lambda s: train(client, "random", s, AT_ONCE), range(40)))

    assert SimulatedChild().way_to_optimum(float(np.mean(returns))) == pytest.approx(0, abs=0.1)
