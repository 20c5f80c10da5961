"""The command `pretrain`."""

from __future__ import annotations

from pathlib import Path

import click

from agent_service.serving.command import LONGEST_SECONDS, Amount, Count
from trainer_service.config import TrainerConfig

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("problems")
@click.option("--data", default=TrainerConfig().data, type=_FOLDER, help="Folder of the data sets.")
@click.option("--output", required=True, type=_FOLDER, help="Folder for the policy and its curves.")
@click.option("--seed", type=Count(0, 2**20), default=0, help="One seed gives one policy.")
@click.option("--processes", type=Count(1, 1024), default=1, help="Processes that train children.")
@click.option(
    "--compared", type=Count(0, 10_000), default=16, help="Stacks to compare with constants on."
)
@click.option("--every", type=Count(1, 10_000), default=10, help="Updates between comparisons.")
@click.option(
    "--minutes",
    type=Amount(0, LONGEST_SECONDS / 60),
    help="Time limit; the same command resumes.",
)
def pretrain(
    problems: str,
    data: Path,
    output: Path,
    seed: int,
    processes: int,
    compared: int,
    every: int,
    minutes: float | None,
) -> None:
    """Learn a policy across problems, drawn as the file PROBLEMS says.

    `dropout-1` and `noise-1` are the files that the shipped policies were learned on.
    """
    from trainer_service.pretraining import command  # torch takes seconds

    command.pretrain(
        problems,
        output,
        data=data,
        seed=seed,
        processes=processes,
        compared=compared,
        every=every,
        minutes=minutes,
    )
