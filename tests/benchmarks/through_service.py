"""Many children through the trainer service and an agent, in each way to place them.

All that a run does counts: training, validation, epochs' ends, reports, checkpoints.
"""

from dataclasses import replace
from pathlib import Path

from tests.end_to_end.processes import AgentProcess, TrainerProcess, wait_for
from trainer_service.client import TrainerClient
from trainer_service.runs.run import ChunkTrained, Planned, RunSpec
from trainer_service.training.spec import TrainingSpec

CHILDREN, CHUNKS = 8, 8
CHILD_CHUNKS = 100
"""Chunks of the child that `children an hour` counts: 2,000 steps of 64 images."""
WAYS = {
    "one_by_one": ("--parallel", "1"),
    "2_processes": ("--parallel", "2"),
    "8_together": ("--parallel", "1", "--together", "8"),
    "2_of_4_together": ("--parallel", "2", "--together", "4"),
}


def children_an_hour(
    spec: TrainingSpec, controller: str, agent: AgentProcess, folder: Path
) -> dict[str, float]:
    """Train children of `spec` under a controller that the agent has, and return the rates."""
    spec = replace(spec, chunks=CHUNKS)
    return {
        f"{way}_children_an_hour": 3600
        / CHILD_CHUNKS
        * _chunks_a_second(
            [replace(spec, seed=seed) for seed in range(CHILDREN)],
            controller,
            TrainerProcess(folder / way, *options, agent=agent.address),
        )
        for way, options in WAYS.items()
    }


def _chunks_a_second(specs: list[TrainingSpec], controller: str, trainer: TrainerProcess) -> float:
    """Return the chunks a second of all children, from when the first begins to train."""
    trainer.store.parent.mkdir()
    with trainer, TrainerClient(trainer.address) as client:
        names = [f"{trainer.store.parent.name}-{spec.seed}" for spec in specs]
        for name, spec in zip(names, specs, strict=True):
            client.submit(name, RunSpec(training=spec, controller=controller))
        planned = len(specs) * CHUNKS
        wait_for(
            lambda: sum(client.get(name).trained_chunks for name in names) == planned, seconds=900
        )
        events = [event for name in names for event in client.watch(name)]
    began = min(event.time for event in events if isinstance(event.what, Planned))
    ended = max(event.time for event in events if isinstance(event.what, ChunkTrained))
    return planned / (ended - began)
