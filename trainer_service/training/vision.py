"""torchvision, as all of our code imports it."""

from __future__ import annotations

from agent_service import torchvision_operators  # noqa: F401

# isort: split

from torchvision import datasets, models
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import StochasticDepth
from torchvision.transforms.v2 import functional

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "StochasticDepth",
    "datasets",
    "functional",
    "models",
]
