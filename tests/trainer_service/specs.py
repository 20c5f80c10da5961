"""Runs and children for tests of the trainer service, with the smallest ResNet."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from agent_service.domain.runs import Mode
from trainer_service.runs.run import RunSpec
from trainer_service.training.datasets import Images, load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method, Model, TrainingSpec, hyperparameters

CPU = torch.device("cpu")
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
ENDLESS = 1_000_000
"""Chunks of a run that a test ends early."""


def run_spec(
    method: Method = Method.VANILLA,
    *,
    controller: str = "",
    mode: Mode | None = None,
    **changes: Any,
) -> RunSpec:
    """Return the spec of a run of `CHILD`, with changes of its training."""
    training = replace(CHILD, method=method, **changes)
    return RunSpec(training=training, controller=controller, mode=mode)


@cache
def digits(training_size: int | None = CHILD.training_size) -> Images:
    """Return the images that children train on."""
    return load_images(replace(CHILD, training_size=training_size), Path())


def new_child(**changes: Any) -> ChildTraining:
    """Return a training of `CHILD`, with changes."""
    spec = replace(CHILD, **changes)
    return ChildTraining(spec, digits(spec.training_size), CPU)


def values(spec: TrainingSpec, value: float = 0.3) -> dict[str, float]:
    """Return the same value for each hyperparameter of a method."""
    return {h.name: value for h in hyperparameters(spec)}
