"""The options of a training, shared by `submit` and `compare`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from agent_service.domain.specs import MAX_CHUNK_SIZE
from agent_service.serving.command import Count

if TYPE_CHECKING:
    from trainer_service.training.spec import TrainingSpec

_PER_CHUNK = Count(1, MAX_CHUNK_SIZE)


def training_options(command: Any) -> Any:
    """Add the options of a training."""
    for option in reversed(
        (
            click.option("--dataset", default="digits", help="See `trainer-service datasets`."),
            click.option("--image-size", type=int, help="Pixels per side (default: the set's)."),
            click.option("--classes", type=int, help="Classes, drawn by seed (default: all)."),
            click.option(
                "--class-name",
                "class_names",
                multiple=True,
                help="A class to use, or to draw from; may be repeated (default: all).",
            ),
            click.option(
                "--validation-share",
                default=0.1,
                help="Share of training to validate on, if the set has no validation split.",
            ),
            click.option("--deduplicate", is_flag=True, help="Remove test images from training."),
            click.option(
                "--subset", type=Count(1, 2**31 - 1), help="Training images (default: all)."
            ),
            click.option("--label-noise", default=0.0, help="Share of wrong training labels."),
            click.option("--augment", default="none", help="none or crop-flip."),
            click.option("--data-seed", default=0, help="Seed of classes, splits, label noise."),
            click.option(
                "--model", default="resnet34", help="A torchvision classifier's name, mlp or cnn."
            ),
            click.option("--width", default=1.0, help="Share of channels (ResNets, mlp, cnn)."),
            click.option(
                "--depth", type=int, help="Layers of an mlp (1-5, default 2) or cnn (1-4, 3)."
            ),
            click.option("--stem", default="auto", help="ResNet stem: auto, small or imagenet."),
            click.option("--start", default="scratch", help="Weights: scratch or imagenet."),
            click.option("--sites", default="shared", help="shared, or each: a value per site."),
            click.option("--chunks", type=int, help="Length in chunks, instead of --epochs."),
            click.option("--epochs", type=int, help="Length in passes over the training images."),
            click.option("--batch-size", default=64, help="Images per batch."),
            click.option("--learning-rate", default=1e-3, help="Step size of Adam."),
            click.option("--chunk-size", type=_PER_CHUNK, default=20, help="Steps per chunk (N)."),
            click.option(
                "--validation-batches",
                type=_PER_CHUNK,
                default=20,
                help="Validation batches per chunk (m).",
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
    """Return the spec of the options; raises InvalidArgument naming the invalid one."""
    from trainer_service.rpc.convert import checked_fields
    from trainer_service.training.spec import TrainingSpec

    values = options | {"training_size": options["subset"]}
    return TrainingSpec(**checked_fields(TrainingSpec, values))


def options_of(spec: TrainingSpec) -> dict[str, Any]:
    """Return the options of a spec."""
    options = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return options | {"subset": options.pop("training_size")}
