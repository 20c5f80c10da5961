"""The child network: torchvision's classifiers, its ResNets narrow too, and the small children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from agent_service.domain.errors import invalid
from trainer_service.training.child.models import scaled
from trainer_service.training.child.small import SMALL_CHILDREN, Shape, small_child
from trainer_service.training.sites import classifier_name, convolution_names
from trainer_service.training.spec import Model, Start, Stem, TrainingSpec
from trainer_service.training.vision import (
    BasicBlock,
    Bottleneck,
    ResNet,
    StochasticDepth,
    models,
)

SMALL_IMAGE = 64
"""Pixels under which `auto` takes the small stem."""
BASE_CHANNELS = 64
"""Channels of a ResNet's stem and first stage at width 1."""
_RESNETS: dict[Model, tuple[Any, list[int], int, int]] = {
    Model.RESNET18: (BasicBlock, [2, 2, 2, 2], 1, 64),
    Model.RESNET34: (BasicBlock, [3, 4, 6, 3], 1, 64),
    Model.RESNET50: (Bottleneck, [3, 4, 6, 3], 1, 64),
    Model.RESNET101: (Bottleneck, [3, 4, 23, 3], 1, 64),
    Model.RESNET152: (Bottleneck, [3, 8, 36, 3], 1, 64),
    Model.RESNEXT50_32X4D: (Bottleneck, [3, 4, 6, 3], 32, 4),
    Model.RESNEXT101_32X8D: (Bottleneck, [3, 4, 23, 3], 32, 8),
    Model.RESNEXT101_64X4D: (Bottleneck, [3, 4, 23, 3], 64, 4),
    Model.WIDE_RESNET50_2: (Bottleneck, [3, 4, 6, 3], 1, 128),
    Model.WIDE_RESNET101_2: (Bottleneck, [3, 4, 23, 3], 1, 128),
}
"""Block, blocks of each stage, groups and width of each group at 64 channels, as torchvision's."""
_OPTIONS: dict[Model, dict[str, bool]] = {
    Model.GOOGLENET: {"init_weights": True},
    Model.INCEPTION_V3: {"init_weights": True},
}
"""Options that torchvision asks for, since it means to change their defaults."""


_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's setting for who calls `torch.load` through others."""


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's ResNet with a share of its channels.

    Its constructor writes the standard numbers of channels out, but makes each stage by
    `_make_layer(block, planes, ...)`: scaling there, and in the stem, leaves all else as it is.
    """

    inplanes: int

    def __init__(self, model: Model, *, width: float, classes: int) -> None:
        """Make the network; `width` in (0, 1] is the share of channels that is kept."""
        self._width = width
        block, layers, groups, per_group = _RESNETS[model]
        super().__init__(
            block, layers, num_classes=classes, groups=groups, width_per_group=per_group
        )
        self.fc = nn.Linear(scaled(8 * BASE_CHANNELS, width) * block.expansion, classes)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == BASE_CHANNELS and self.inplanes == BASE_CHANNELS:
            # The first stage: the stem was made just before, with the standard channels.
            self.inplanes = scaled(BASE_CHANNELS, self._width)
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        kept = scaled(planes, self._width)
        layer: nn.Sequential = super()._make_layer(block, kept, *args, **kwargs)
        return layer


def build_child(spec: TrainingSpec, shape: Shape, *, classes: int) -> nn.Module:
    """Return the child of `spec`, its weights drawn by torch's global generator.

    A model's own dropout and stochastic depth are off: its method alone regularizes a child.

    Args:
        spec: names model, width, depth, stem and start.
        shape: of the images, (c, h, w) with 1 or 3 channels, before any enlargement.
        classes: number of classes.

    Raises:
        InvalidArgument: where ImageNet's weights cannot be fetched, or the model has no such size.
    """
    channels, image_size = shape[0], min(shape[1:])
    if spec.model in SMALL_CHILDREN:
        return small_child(spec, shape, classes=classes)
    if spec.start is Start.IMAGENET:
        child = _pretrained(spec.model, classes=classes)
    elif spec.model in _RESNETS:
        return _resnet(spec, channels=channels, classes=classes, image_size=image_size)
    else:
        child = _from_scratch(spec.model, classes=classes, image_size=image_size)
    if channels == 1:
        _take_grey(child.get_submodule(convolution_names(child)[0]))
    for module in child.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
    for name in ("aux1", "aux2", "AuxLogits"):
        if hasattr(child, name):
            # Classifiers halfway, and a change of colours for weights that came from elsewhere.
            setattr(child, name, None)
            setattr(child, "aux_logits", False)  # noqa: B010
    return child


def _resnet(spec: TrainingSpec, *, channels: int, classes: int, image_size: int) -> nn.Module:
    child = NarrowResNet(spec.model, width=spec.width, classes=classes)
    stem = child.conv1.out_channels
    if spec.stem is Stem.SMALL or (spec.stem is Stem.AUTO and image_size < SMALL_IMAGE):
        child.conv1 = nn.Conv2d(channels, stem, 3, stride=1, padding=1, bias=False)
        child.maxpool = nn.Identity()
    elif channels != 3:
        child.conv1 = nn.Conv2d(channels, stem, 7, stride=2, padding=3, bias=False)
    # torchvision's own law for convolutions, for the ones that were made after its pass.
    nn.init.kaiming_normal_(child.conv1.weight, mode="fan_out", nonlinearity="relu")
    return child


def _from_scratch(model: Model, *, classes: int, image_size: int) -> nn.Module:
    options: dict[str, Any] = dict(_OPTIONS.get(model, {}))
    if model.value.startswith("vit_"):
        options["image_size"] = image_size  # it has an embedding for each patch
    try:
        child: nn.Module = models.get_model(model.value, num_classes=classes, **options)
    except AssertionError as error:
        raise invalid("model", f"{model} has no size for {image_size} pixels: {error}") from error
    return child


def _pretrained(model: Model, *, classes: int) -> nn.Module:
    weights = models.get_model_weights(model.value).DEFAULT
    try:
        with _tensors_only():
            child: nn.Module = models.get_model(model.value, weights=weights, progress=False)
    except Exception as error:
        # A damaged file raises most of what a pickle's reader can; all mean the same.
        place = f"{torch.hub.get_dir()}/checkpoints"
        why = next(iter(str(error).splitlines()), type(error).__name__)
        text = f"ImageNet's weights cannot be read: {why}; put {weights.url} into {place}"
        raise invalid("start", text) from error
    name = classifier_name(child)
    head = child.get_submodule(name)
    if isinstance(head, nn.Conv2d):
        child.set_submodule(name, nn.Conv2d(head.in_channels, classes, 1))
    elif isinstance(head, nn.Linear):
        child.set_submodule(name, nn.Linear(head.in_features, classes))
    return child


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch read tensors only: torchvision's files are pickles, which may run code."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_WEIGHTS_ONLY]
        if before is not None:
            os.environ[_WEIGHTS_ONLY] = before


def _take_grey(stem: nn.Module) -> None:
    """Let a first convolution take one channel, as if the grey image stood in all of three."""
    assert isinstance(stem, nn.Conv2d)
    stem.weight = nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
    stem.in_channels = 1


def input_size(spec: TrainingSpec) -> int | None:
    """Return the pixels of a side that ImageNet's weights expect; None from scratch."""
    if spec.start is Start.SCRATCH:
        return None
    size: int = models.get_model_weights(spec.model.value).DEFAULT.transforms().crop_size[0]
    return size
