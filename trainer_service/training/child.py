"""The child network: torchvision's ResNets, with fewer channels or a stem for small images."""

from __future__ import annotations

import math
import urllib.error
from typing import Any

from torch import nn

from agent_service.domain.errors import invalid
from trainer_service.training.spec import Model, Start, Stem, TrainingSpec
from trainer_service.training.vision import BasicBlock, Bottleneck, ResNet, models

SMALL_IMAGE = 64
"""Pixels under which `auto` takes the small stem."""
BASE_CHANNELS = 64
"""Channels of a ResNet's stem and first stage at width 1."""
_LAYERS: dict[Model, tuple[Any, list[int]]] = {
    Model.RESNET18: (BasicBlock, [2, 2, 2, 2]),
    Model.RESNET34: (BasicBlock, [3, 4, 6, 3]),
    Model.RESNET50: (Bottleneck, [3, 4, 6, 3]),
}


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's ResNet with a share of its channels.

    Its constructor writes the standard numbers of channels out, but makes each stage by
    `_make_layer(block, planes, ...)`: scaling there, and in the stem, leaves all else as it is.
    """

    inplanes: int

    def __init__(self, block: Any, layers: list[int], *, width: float, classes: int) -> None:
        """Make the network; `width` in (0, 1] is the share of channels that is kept."""
        self._width = width
        super().__init__(block, layers, num_classes=classes)
        self.fc = nn.Linear(self._scaled(8 * BASE_CHANNELS) * block.expansion, classes)

    def _scaled(self, channels: int) -> int:
        return max(1, math.ceil(channels * self._width))

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == BASE_CHANNELS and self.inplanes == BASE_CHANNELS:
            # The first stage: the stem was made just before, with the standard channels.
            self.inplanes = self._scaled(BASE_CHANNELS)
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
        layer: nn.Sequential = super()._make_layer(block, self._scaled(planes), *args, **kwargs)
        return layer


def build_child(spec: TrainingSpec, *, channels: int, classes: int, image_size: int) -> ResNet:
    """Return the child of `spec`, its weights drawn by torch's global generator.

    Args:
        spec: names model, width, stem and start.
        channels: of the images, 1 or 3.
        classes: number of classes.
        image_size: the images' smaller side in pixels.

    Raises:
        InvalidArgument: where ImageNet's weights do not fit or cannot be fetched.
    """
    is_small = spec.stem is Stem.SMALL or (spec.stem is Stem.AUTO and image_size < SMALL_IMAGE)
    if spec.start is Start.IMAGENET:
        return _pretrained(spec, channels=channels, classes=classes, is_small=is_small)
    block, layers = _LAYERS[spec.model]
    child = NarrowResNet(block, layers, width=spec.width, classes=classes)
    stem = child.conv1.out_channels
    if is_small:
        child.conv1 = nn.Conv2d(channels, stem, 3, stride=1, padding=1, bias=False)
        child.maxpool = nn.Identity()
    elif channels != 3:
        child.conv1 = nn.Conv2d(channels, stem, 7, stride=2, padding=3, bias=False)
    # torchvision's own law for convolutions, for the ones that were made after its pass.
    nn.init.kaiming_normal_(child.conv1.weight, mode="fan_out", nonlinearity="relu")
    return child


def _pretrained(spec: TrainingSpec, *, channels: int, classes: int, is_small: bool) -> ResNet:
    if channels != 3 or is_small:
        raise invalid(
            "start", "ImageNet's weights need images of three channels and the stem `imagenet`"
        )
    try:
        child = models.get_model(spec.model.value, weights="DEFAULT")
    except (urllib.error.URLError, OSError) as error:
        raise invalid("start", f"ImageNet's weights cannot be fetched: {error}") from error
    child.fc = nn.Linear(child.fc.in_features, classes)
    return child
