"""The work of `pretrain`, with its output."""

from __future__ import annotations

import time
from pathlib import Path

from trainer_service.pretraining.distribution import read_problems
from trainer_service.pretraining.learning import Learner, players
from trainer_service.pretraining.page import write_page
from trainer_service.study.terminal import Terminal

POLICY = "policy.safetensors"


def pretrain(
    name: str,
    output: Path,
    *,
    data: Path,
    seed: int,
    processes: int,
    compared: int,
    every: int,
    minutes: float | None,
) -> None:
    """Learn a policy across problems, or go on; the folder's page shows how far it is.

    Args:
        name: the problems file, or the name of a shipped policy.
        output: the folder.
        data: the data folder.
        seed: one seed gives one policy, however often it was interrupted.
        processes: that train children side by side.
        compared: stacks that the policy is compared with constants on; 0 for none.
        every: updates between two comparisons.
        minutes: after which it stops; the same command goes on. None for no limit.

    Raises:
        WrongProblems: the file is invalid.
        DataError: a data set is missing or invalid.
        AgentError: the folder is of another policy.
    """
    problems = read_problems(name)
    console, title = Terminal(), Path(name).stem
    learner = Learner(problems, data=data, folder=output, seed=seed, compared=compared)
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    with players(processes) as player:
        while not learner.is_done and (ends is None or time.monotonic() < ends):
            figures = learner.step(player)
            if compared and (learner.updates % every == 0 or learner.is_done):
                found = learner.compare(player)
                parts = [f"{n} {v:+.4f}" for n, v in found.items() if "against" in n]
                console.print(", ".join(parts), soft_wrap=True)
            write_page(output, learner.curves, title=f"{title}, seed {seed}")
            console.print(
                f"{learner.children:,} of {problems.learning.children:,} children, score "
                f"{figures['score']:.4f}, value {figures['value']:.3f}, std {figures['std']:.3f}, "
                f"{figures['seconds']:.0f} s",
                soft_wrap=True,
            )
            (output / POLICY).write_bytes(learner.policy(title))
    if not learner.is_done:
        console.print("the time is up; the same command goes on where this one stopped")
    for name in (POLICY, "curves.html"):
        console.print(str(output / name), highlight=False, soft_wrap=True)
