"""How far PPO's options get on the simulated child, whose best policy is known.

    python -m tests.benchmarks.bench_learning [SEEDS]

Children train under one controller, 8 at once, through the real service and its learner. After
some transitions its frozen policy steers 10 fresh children: shown is how far their mean return is
on the way from random rates to the optimum, in percent, over seeds: the mean, and the worst.
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from agent_service.client import AgentClient, PPOSettings
from agent_service.domain.specs import WarmStart
from tests.end_to_end.learning import learn, serving, spec, way_of_the_frozen

MARKS = (1_000, 3_000, 10_000)
"""Transitions after which the policy is judged."""
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
    "warm start": replace(DEFAULTS, warm_start=WarmStart(controller="source")),
}


def at_marks(client: AgentClient, settings: PPOSettings, seed: int) -> list[float]:
    """Return how far a new controller gets, in percent, at each mark."""
    children = itertools.count(1_000_000 * seed)
    if settings.warm_start is not None:
        client.create_controller(spec("source", DEFAULTS, seed + 1_000))
        learn(client, "source", children, transitions=WARM)
    client.create_controller(spec("c", settings, seed))
    ways = []
    for before, mark in itertools.pairwise((0, *MARKS)):
        learn(client, "c", children, transitions=mark - before)
        ways.append(100 * way_of_the_frozen(client, "c"))
    return ways


def main(seeds: int) -> None:
    print(f"{f'after, {seeds} seeds':30}" + "  ".join(f"{mark:9,}" for mark in MARKS))
    for name, settings in OPTIONS.items():
        rows = []
        for seed in range(1, seeds + 1):
            with TemporaryDirectory() as folder, serving(Path(folder)) as client:
                rows.append(at_marks(client, settings, seed))
        cells = [f"{marks.mean():3.0f} [{marks.min():3.0f}]" for marks in np.array(rows).T]
        print(f"{name:30}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
