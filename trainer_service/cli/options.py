"""The options that say what a child is trained on, for the commands that submit one or compare."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from agent_service.domain.checks import member
from agent_service.domain.specs import MAX_CHUNK_SIZE
from agent_service.serving.command import Count

if TYPE_CHECKING:
    from trainer_service.training.spec import TrainingSpec

_PER_CHUNK = Count(1, MAX_CHUNK_SIZE)


def training_options(command: Any) -> Any:
    """Add the options that say what is trained, on what and for how long."""
    for option in reversed(
        (
            click.option("--dataset", default="digits", help="See `trainer-service datasets`."),
            click.option("--image-size", type=int, help="Pixels each way; the set's own."),
            click.option("--classes", type=int, help="Classes, drawn by seed; all by default."),
            click.option("--validation-share", default=0.1, help="Of training, if none is set."),
            click.option("--deduplicate", is_flag=True, help="Train on nothing that is tested on."),
            click.option(
                "--subset",
                type=Count(1, 2**31 - 1),
                help="Training images; all by default.",
            ),
            click.option("--label-noise", default=0.0, help="Share of wrong training labels."),
            click.option("--augment", default="none", help="none or crop-flip."),
            click.option("--data-seed", default=0, help="Of classes, splits, subset and noise."),
            click.option("--model", default="resnet34", help="A torchvision classifier's name."),
            click.option("--width", default=1.0, help="Share of a ResNet's channels."),
            click.option("--stem", default="auto", help="auto, small or imagenet."),
            click.option("--start", default="scratch", help="scratch or imagenet."),
            click.option("--sites", default="shared", help="One value for all sites, or each."),
            click.option("--chunks", type=int, help="Length in chunks; or give --epochs."),
            click.option("--epochs", type=int, help="Length in passes over the training images."),
            click.option("--batch-size", default=64),
            click.option("--learning-rate", default=1e-3),
            click.option("--chunk-size", type=_PER_CHUNK, default=20, help="N, steps in a chunk."),
            click.option(
                "--validation-batches", type=_PER_CHUNK, default=20, help="m, in a chunk."
            ),
            click.option("--precision", default="fp32", help="fp32, tf32 (CUDA only) or bf16."),
            click.option("--memory-format", default="auto", help="Or contiguous, channels_last."),
            click.option("--execution", default="eager", help="Or compiled, graphs (CUDA only)."),
            click.option(
                "--score", default="macro-f1-of-batches", help="Or macro-f1, of a chunk's samples."
            ),
        )
    ):
        command = option(command)
    return command


def training_spec(options: dict[str, Any]) -> TrainingSpec:
    """Return what the options say; raises InvalidArgument naming the one that is wrong."""
    from trainer_service.training import spec

    kinds = {
        "augment": spec.Augment,
        "model": spec.Model,
        "stem": spec.Stem,
        "start": spec.Start,
        "precision": spec.Precision,
        "memory_format": spec.MemoryFormat,
        "execution": spec.Execution,
        "score": spec.Score,
        "sites": spec.Sites,
        "method": spec.Method,
    }
    checked: dict[str, Any] = {
        name: member(kinds[name], value, name) if name in kinds else value
        for name, value in options.items()
    }
    return spec.TrainingSpec(training_size=checked.pop("subset"), **checked)


def options_of(spec: TrainingSpec) -> dict[str, Any]:
    """Return the options that say what a spec is."""
    options = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return options | {"subset": options.pop("training_size")}
