"""How far PPO's options get on the simulated child, whose best policy is known; 10 s a seed.

    python -m tests.benchmarks.bench_learning [SEEDS]

8 children of 40 chunks train at once under one controller, reward `validation`, an update every 256
transitions; in this process, without servers or a store, but by the service's own derivation of
decisions. Then the frozen policy steers 10 fresh children: shown is how far their mean return is on
the way from random rates to the optimum, in percent, over seeds: the mean, and the worst.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from agent_service.controllers.derivation import derive
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Feedback, Reward, Scores
from agent_service.domain.runs import Controller, Decision, Mode, Run, Use
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.rollout import Segment
from agent_service.learning.sb3 import update
from agent_service.learning.snapshot import PolicySnapshot, initial_snapshot
from trainer_service.simulation.child import HIGHEST_RATE, SimulatedChild

AT_ONCE = 8
MARKS = (1_000, 3_000, 10_000)
"""Transitions after which the policy is judged, or the first update after."""
WARM = 3_000
"""Transitions that the source of a warm start learned from, with another seed."""
DEFAULTS = PPOSettings()
EVERYTHING = replace(DEFAULTS, observe_action=True, observe_progress=True, observe_scores=True)
OPTIONS = {
    "losses alone": DEFAULTS,
    "+ action": replace(DEFAULTS, observe_action=True),
    "+ progress": replace(DEFAULTS, observe_progress=True),
    "+ scores": replace(DEFAULTS, observe_scores=True),
    "+ all three": EVERYTHING,
    "max_change 0.2": replace(DEFAULTS, max_change=0.2),
    "max_change 0.5": replace(DEFAULTS, max_change=0.5),
    "max_change 0.2, + action": replace(DEFAULTS, observe_action=True, max_change=0.2),
    "max_change 0.5, + action": replace(DEFAULTS, observe_action=True, max_change=0.5),
    "max_change 0.5, + all three": replace(EVERYTHING, max_change=0.5),
}


@dataclass
class Episode:
    """One child's run, and its transitions that no update took yet."""

    run: Run
    child: SimulatedChild
    running: Decision
    steps: list[tuple[Decision, float]] = field(default_factory=list)
    total: float = 0.0
    """Sum of validation scores so far."""

    def take(self) -> Segment:
        """Return what waits as a segment, and let go of it."""
        decisions, rewards = zip(*self.steps, strict=True)
        self.steps = []
        return Segment(
            observations=np.stack([d.observation for d in decisions]),
            samples=np.array([d.choice.sample for d in decisions]),
            log_probabilities=np.array([d.choice.log_probability for d in decisions]),
            rewards=np.array(rewards),
            next_observation=self.running.observation,
            terminated=self.child.finished,
        )


def start(of: ControllerSpec, policy: PolicySnapshot, seed: int, mode: Mode) -> Episode:
    """Start a run of a fresh child and decide A_0."""
    child = SimulatedChild(seed=seed)
    controller = Controller(id=1, spec=of, mode=mode, policy_version=1, created_at=0.0)
    run = Run(
        key=1,
        id=f"run-{seed}",
        controller=controller,
        mode=mode,
        labels={},
        planned_chunks=child.chunks,
        pinned_version=None,
        reported_chunks=0,
        outcome=None,
        final_score=None,
        created_at=0.0,
        updated_at=0.0,
    )
    return Episode(run, child, decide(run, None, np.zeros(of.chunk_size), None, policy))


def decide(
    run: Run,
    running: Decision | None,
    state: np.ndarray,
    feedback: Feedback | None,
    policy: PolicySnapshot,
) -> Decision:
    """Derive the next decision, as the service does."""
    derived = derive(
        run,
        running,
        state=state,
        feedback=feedback,
        applied=None,
        policy=policy,
    )
    return Decision(
        position=0,
        run_id=run.id,
        chunk=1 if running is None else running.chunk + 1,
        state=state,
        context=derived.context,
        feedback=feedback,
        reward=None,
        applied=None,
        choice=derived.choice,
        values=derived.values,
        policy_version=1,
        use=Use.READY,
        learned_in=None,
        created_at=0.0,
    )


def train_chunk(episode: Episode, policy: PolicySnapshot) -> None:
    """Train a chunk under what was decided, and decide the next action."""
    chunk = episode.child.step(episode.running.values["dropout"])
    feedback = Scores(training=chunk.training_score, validation=chunk.validation_score)
    episode.total += chunk.validation_score
    episode.steps.append((episode.running, chunk.validation_score))
    episode.running = decide(episode.run, episode.running, chunk.losses, feedback, policy)


def learn(of: ControllerSpec, policy: PolicySnapshot) -> Iterator[tuple[int, PolicySnapshot]]:
    """Yield the transitions learned from and the policy, after each update, for ever."""
    seed = 1_000_000 * of.seed
    episodes = [start(of, policy, seed + i, Mode.LEARNING) for i in range(AT_ONCE)]
    seed, learned, waiting = seed + AT_ONCE, 0, list[Segment]()
    while True:
        for place, episode in enumerate(episodes):
            train_chunk(episode, policy)
            if episode.child.finished:
                waiting.append(episode.take())
                episodes[place] = start(of, policy, seed, Mode.LEARNING)
                seed += 1
        ready = sum(len(s.rewards) for s in waiting) + sum(len(e.steps) for e in episodes)
        if ready >= DEFAULTS.rollout_size:
            segments = waiting + [e.take() for e in episodes if e.steps]
            policy = update(policy, of, segments, seed=learned).snapshot
            learned, waiting = learned + ready, []
            yield learned, policy


def judged(of: ControllerSpec, policy: PolicySnapshot) -> float:
    """Return how far the frozen policy gets, in percent."""
    returns = []
    for seed in range(10):
        episode = start(of, policy, 900_000_000 + seed, Mode.FROZEN)
        while not episode.child.finished:
            train_chunk(episode, policy)
        returns.append(episode.total)
    return 100 * SimulatedChild().way_to_optimum(float(np.mean(returns)))


def at_marks(of: ControllerSpec, policy: PolicySnapshot) -> list[float]:
    """Train from `policy` on, and return how far it gets at each mark."""
    marks, results = list(MARKS), list[float]()
    for learned, newest in learn(of, policy):
        if learned >= marks[0]:
            results.append(judged(of, newest))
            del marks[0]
        if not marks:
            return results
    raise AssertionError("learning never ends")


def spec(settings: PPOSettings, seed: int) -> ControllerSpec:
    """Return the controller of one option and seed."""
    rate = Hyperparameter(name="dropout", low=0.0, high=HIGHEST_RATE)
    return ControllerSpec(
        name="c",
        hyperparameters=(rate,),
        reward=Reward.VALIDATION,
        seed=seed,
        algorithm=settings,
    )


def warm(seed: int) -> PolicySnapshot:
    """Return the policy that another seed's controller has after WARM transitions."""
    source = spec(DEFAULTS, seed + 1_000)
    policy = next(p for n, p in learn(source, initial_snapshot(source)) if n >= WARM)
    return from_bytes(to_bytes(policy, source, policy_version=1), spec(DEFAULTS, seed))


def show(name: str, results: list[list[float]]) -> None:
    """Print one option's line: for each mark the mean and the worst seed."""
    cells = [f"{column.mean():3.0f} [{column.min():3.0f}]" for column in np.array(results).T]
    print(f"{name:30}" + "  ".join(cells), flush=True)


def main(seeds: int) -> None:
    """Measure every option and print a table."""
    torch.set_num_threads(1)
    print(f"{f'after, {seeds} seeds':30}" + "  ".join(f"{mark:9,}" for mark in MARKS))
    for name, settings in OPTIONS.items():
        specs = [spec(settings, seed) for seed in range(1, seeds + 1)]
        show(name, [at_marks(of, initial_snapshot(of)) for of in specs])
    specs = [spec(DEFAULTS, seed) for seed in range(1, seeds + 1)]
    show("warm start", [at_marks(of, warm(of.seed)) for of in specs])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
