"""The small children: a multilayer perceptron and a plain convolutional network.

They are for images of few pixels, for many trainings at little cost, and stack well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from trainer_service.training.child.models import STAGES, Model, scaled, traits_of
from trainer_service.training.spec import TrainingSpec

UNITS = 256
"""Units of each hidden layer of an mlp at width 1."""
CHANNELS = 64
"""Channels of a cnn's first block at width 1; each block has twice those of the one before."""
MOST_CHANNELS = 256
"""Channels that no block of a cnn exceeds at width 1."""
HIDDEN_UNITS = 128
"""Units of a cnn's hidden layer at width 1."""
SMALLEST_POOLED = 4
"""Pixels of the smaller side under which a block of a cnn does not pool."""

Shape = tuple[int, ...]
"""Of images: (c, h, w)."""


def small_child(spec: TrainingSpec, shape: Shape, *, classes: int) -> nn.Module:
    """Return the child of a spec whose model is one of SMALL_CHILDREN."""
    depth = spec.depth or traits_of(spec.model).default_depth
    return SMALL_CHILDREN[spec.model](depth, spec.width, shape, classes)


def _mlp(depth: int, width: float, shape: Shape, classes: int) -> nn.Module:
    """Return an mlp of `depth` hidden layers: its stages, and one before the classifier."""
    channels, height, image_width = shape
    units = scaled(UNITS, width)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    inputs = channels * height * image_width
    for name in (*STAGES[: depth - 1], "hidden"):
        layers[name] = _hidden(inputs, units)
        inputs = units
    return nn.Sequential(OrderedDict(layers, classifier=nn.Linear(inputs, classes)))


def _cnn(depth: int, width: float, shape: Shape, classes: int) -> nn.Module:
    """Return a cnn of `depth` blocks, each a stage, then a hidden layer and the classifier."""
    channels, *sides = shape
    blocks: dict[str, nn.Module] = {}
    for number, name in enumerate(STAGES[:depth]):
        outputs = scaled(min(CHANNELS * 2**number, MOST_CHANNELS), width)
        pools = min(sides) >= SMALLEST_POOLED
        blocks[name] = _block(channels, outputs, pools=pools)
        channels = outputs
        sides = [side // 2 for side in sides] if pools else sides
    units = scaled(HIDDEN_UNITS, width)
    head = {
        "flatten": nn.Flatten(),
        "hidden": _hidden(channels * sides[0] * sides[1], units),
        "classifier": nn.Linear(units, classes),
    }
    return nn.Sequential(OrderedDict(blocks, **head))


SMALL_CHILDREN: dict[Model, Callable[..., nn.Module]] = {Model.MLP: _mlp, Model.CNN: _cnn}
"""Builds each model from depth, width, shape of the images, and number of classes."""


def _hidden(inputs: int, units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(inplace=True))


def _block(inputs: int, outputs: int, *, pools: bool) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    # As torchvision's ResNets; linear layers keep torch's default.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    layers = [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *[nn.MaxPool2d(2)] * pools)
