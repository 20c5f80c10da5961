"""It learns: through real gRPC and the real learner process, on a child whose optimum is known."""

import itertools
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent_service.client import AgentClient
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, PPOSettings, RandomSettings
from tests.end_to_end.processes import AgentProcess, wait_for
from trainer_service.simulation import HIGHEST_RATE, SimulatedChild

RUNS = 8
ROLLOUT = PPOSettings().rollout_size
TRANSITIONS = 15_000
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=HIGHEST_RATE)


@contextmanager
def serving(folder: Path) -> Iterator[AgentClient]:
    """Give a client of a new agent; no power is lost here."""
    with (
        AgentProcess(folder / "agent.db", "--durability", "process") as agent,
        AgentClient(agent.address) as client,
    ):
        yield client


def training(client: AgentClient, controller: str, seed: int) -> Generator[float]:
    """Train one simulated child under a controller, a chunk a turn; yield validation scores."""
    child = SimulatedChild(seed=seed)
    with client.run(controller, run_id=f"{controller}-{seed}") as run:
        while not child.finished:
            chunk = child.step(run.hyperparameters["dropout"])
            run.report_chunk(
                chunk.losses.tolist(),
                training_score=chunk.training_score,
                validation_score=chunk.validation_score,
            )
            yield chunk.validation_score


def learn(client: AgentClient, controller: str, seeds: Iterator[int]) -> None:
    """Keep RUNS children training, in turns, for TRANSITIONS chunks in all.

    A real child's chunk takes seconds, an update far less: the learner keeps up. A simulated chunk
    takes no time, so the children wait here while a rollout is ready to be learned from. What is
    learned then depends on seeds alone, and is the same each time.
    """
    trainings = [training(client, controller, next(seeds)) for _ in range(RUNS)]
    for _ in range(-(-TRANSITIONS // RUNS)):
        for place, one in enumerate(trainings):
            if next(one, None) is None:
                trainings[place] = training(client, controller, next(seeds))
                next(trainings[place])
        wait_for(lambda: client.get_controller(controller).ready_transitions < ROLLOUT)
    for one in trainings:
        one.close()


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
    with serving(tmp_path) as client:
        client.create_controller(spec)
        learn(client, "ppo", itertools.count(1000 * seed))
        client.set_mode("ppo", Mode.FROZEN)
        returns = [sum(training(client, "ppo", 900_000 + i)) for i in range(10)]
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
    with serving(tmp_path) as client:
        client.create_controller(spec)
        with ThreadPoolExecutor(RUNS) as pool:
            returns = list(pool.map(lambda s: sum(training(client, "random", s)), range(40)))

    assert SimulatedChild().way_to_optimum(float(np.mean(returns))) == pytest.approx(0, abs=0.1)
