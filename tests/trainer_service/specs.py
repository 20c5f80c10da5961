"""Run specs for tests of the trainer service, with the smallest ResNet."""

from dataclasses import replace

from agent_service.domain.runs import Mode
from trainer_service.runs.run import RunSpec
from trainer_service.training.spec import Method, Model, TrainingSpec

CHILD = TrainingSpec(
    model=Model.RESNET18,
    width=0.0625,
    training_size=64,
    batch_size=16,
    chunk_size=4,
    validation_batches=3,
    chunks=3,
)
"""A training whose chunks take a few hundredths of a second."""


def run_spec(
    method: Method = Method.VANILLA,
    *,
    controller: str = "",
    mode: Mode | None = None,
    chunks: int = 3,
    learning_rate: float = 1e-3,
    dataset: str = "digits",
    batch_size: int = CHILD.batch_size,
    seed: int = 0,
) -> RunSpec:
    """Return the spec of a run of `CHILD`, with changes."""
    training = replace(
        CHILD,
        dataset=dataset,
        method=method,
        chunks=chunks,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
    )
    return RunSpec(training=training, controller=controller, mode=mode)


ENDLESS = 1_000_000
"""Chunks of a run that a test ends early."""
