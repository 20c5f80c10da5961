"""Learning through real gRPC and the real learner process, on a child whose optimum is known.

`make test-learning` does it to the end with several seeds and writes what came of it; the suite's
own test does it with one, and not as long.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agent_service.client import AgentClient, FleetReport, ReportStream
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward, Scores
from agent_service.domain.runs import Mode, Outcome
from agent_service.domain.specs import ControllerSpec, Settings
from tests.end_to_end.long import measure
from tests.end_to_end.processes import AgentProcess, wait_for
from trainer_service.simulation.child import HIGHEST_RATE, SimulatedChild

RUNS = 8
ROLLOUT = PPOSettings().rollout_size
TRANSITIONS = 15_000
LEAST = 0.9
"""Of the way from random rates to the optimum: what learning must reach. No constant rate does."""
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=HIGHEST_RATE)


@contextmanager
def serving(folder: Path) -> Iterator[AgentClient]:
    """Give a client of a new agent; no power is lost here."""
    with (
        AgentProcess(folder / "agent.db", "--durability", "process") as agent,
        AgentClient(agent.address) as client,
    ):
        yield client


class Training:
    def __init__(
        self, client: AgentClient, controller: str, seed: int, mode: Mode | None = None
    ) -> None:
        self.child = SimulatedChild(seed=seed)
        # What a run that learns draws follows from its name.
        name = None if mode is Mode.FROZEN else f"{controller}-{seed}"
        self.run = client.run(controller, run_id=name, mode=mode)
        self.validation_scores: list[float] = []

    def next_chunk(self) -> FleetReport:
        chunk = self.child.step(self.run.hyperparameters["dropout"])
        self.validation_scores.append(chunk.validation_score)
        scores = Scores(training=chunk.training_score, validation=chunk.validation_score)
        return FleetReport(run=self.run, losses=chunk.losses.tolist(), feedback=scores)


def advance(stream: ReportStream, trainings: Sequence[Training]) -> None:
    errors = stream.report([training.next_chunk() for training in trainings])
    assert errors == [None] * len(trainings)


def learn(client: AgentClient, controller: str, seeds: Iterator[int], *, transitions: int) -> None:
    """Keep RUNS children training, for so many chunks in all.

    A real child's chunk takes seconds, an update far less: the learner keeps up. A simulated chunk
    takes no time, so the children wait here while a rollout is ready to be learned from. What is
    learned then depends on seeds alone, and is the same each time.
    """
    trainings = [Training(client, controller, next(seeds)) for _ in range(RUNS)]
    waiting = 0
    with client.report_stream() as stream:
        for _ in range(-(-transitions // RUNS)):
            advance(stream, trainings)
            for place, training in enumerate(trainings):
                if training.child.finished:
                    training.run.finish()
                    trainings[place] = Training(client, controller, next(seeds))
            waiting += RUNS
            # A run's newest transition may get ready by its end only.
            if waiting + RUNS >= ROLLOUT:
                waiting = wait_for_learning(client, controller)
    for training in trainings:
        training.run.finish(Outcome.CANCELLED)


def wait_for_learning(client: AgentClient, controller: str) -> int:
    """Wait while a rollout is ready; return how many transitions are, of the next one."""
    wait_for(lambda: client.get_controller(controller).ready_transitions < ROLLOUT)
    return client.get_controller(controller).ready_transitions


def mean_return(
    client: AgentClient, controller: str, seeds: Iterable[int], mode: Mode | None = None
) -> float:
    """Train a child of each seed to its end; return the mean sum of their validation scores."""
    trainings = [Training(client, controller, seed, mode) for seed in seeds]
    with client.report_stream() as stream:
        while not trainings[0].child.finished:
            advance(stream, trainings)
    for training in trainings:
        training.run.finish()
    return float(np.mean([sum(training.validation_scores) for training in trainings]))


def way_learned(folder: Path, *, seed: int, transitions: int) -> float:
    """Let runs share a controller; return how far it goes, frozen, from random to optimal rates."""
    with serving(folder) as client:
        client.create_controller(spec("ppo", PPOSettings(), seed))
        learn(client, "ppo", itertools.count(1000 * seed), transitions=transitions)
        return way_of_the_frozen(client, "ppo")


def spec(name: str, settings: Settings, seed: int = 0) -> ControllerSpec:
    return ControllerSpec(
        name=name,
        hyperparameters=(DROPOUT,),
        reward=Reward.VALIDATION,
        seed=seed,
        algorithm=settings,
    )


def way_of_the_frozen(client: AgentClient, controller: str) -> float:
    """Return how far a controller's newest policy goes, from random to optimal rates."""
    learned = mean_return(client, controller, range(900_000, 900_010), Mode.FROZEN)
    return SimulatedChild().way_to_optimum(learned)


def main(seeds: Sequence[int]) -> None:
    def work(folder: Path, progress: Callable[[str], None]) -> dict[str, float]:
        ways = {}
        for seed in seeds:
            (folder / str(seed)).mkdir()
            way = way_learned(folder / str(seed), seed=seed, transitions=TRANSITIONS)
            ways[f"way_to_optimum_seed_{seed}"] = way
            progress(f"seed {seed}: {way:.3f} of the way from random rates to the optimum")
            assert way >= LEAST
        return ways

    measure("learning", work)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]])
