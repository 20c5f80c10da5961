"""Names of children, and what a spec can choose of each; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""A child's stages, named as a ResNet's."""

Model = StrEnum(
    "Model",
    "RESNET18 RESNET34 RESNET50 RESNET101 RESNET152 RESNEXT101_32X8D RESNEXT101_64X4D "
    "RESNEXT50_32X4D WIDE_RESNET101_2 WIDE_RESNET50_2 ALEXNET CONVNEXT_BASE CONVNEXT_LARGE "
    "CONVNEXT_SMALL CONVNEXT_TINY DENSENET121 DENSENET161 DENSENET169 DENSENET201 "
    "EFFICIENTNET_B0 EFFICIENTNET_B1 EFFICIENTNET_B2 EFFICIENTNET_B3 EFFICIENTNET_B4 "
    "EFFICIENTNET_B5 EFFICIENTNET_B6 EFFICIENTNET_B7 EFFICIENTNET_V2_L EFFICIENTNET_V2_M "
    "EFFICIENTNET_V2_S GOOGLENET INCEPTION_V3 MAXVIT_T MNASNET0_5 MNASNET0_75 MNASNET1_0 "
    "MNASNET1_3 MOBILENET_V2 MOBILENET_V3_LARGE MOBILENET_V3_SMALL REGNET_X_16GF REGNET_X_1_6GF "
    "REGNET_X_32GF REGNET_X_3_2GF REGNET_X_400MF REGNET_X_800MF REGNET_X_8GF REGNET_Y_128GF "
    "REGNET_Y_16GF REGNET_Y_1_6GF REGNET_Y_32GF REGNET_Y_3_2GF REGNET_Y_400MF REGNET_Y_800MF "
    "REGNET_Y_8GF SHUFFLENET_V2_X0_5 SHUFFLENET_V2_X1_0 SHUFFLENET_V2_X1_5 SHUFFLENET_V2_X2_0 "
    "SQUEEZENET1_0 SQUEEZENET1_1 SWIN_B SWIN_S SWIN_T SWIN_V2_B SWIN_V2_S SWIN_V2_T VGG11 "
    "VGG11_BN VGG13 VGG13_BN VGG16 VGG16_BN VGG19 VGG19_BN VIT_B_16 VIT_B_32 VIT_H_14 VIT_L_16 "
    "VIT_L_32 "
    "MLP CNN",
)
"""Children: torchvision's classifiers under its names, which a test compares, then our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a spec can choose of a model, and what is known of it before it is built."""

    has_width: bool = False
    """Whether it can have a share of its standard channels or units."""
    has_stem: bool = False
    """Whether it has a choice of stem."""
    has_imagenet: bool = True
    """Whether there are weights trained on ImageNet."""
    is_stackable: bool = False
    """Whether several of them can train as one network."""
    names_stages: bool = False
    """Whether its modules carry the names of its stages."""
    stages_by_depth: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Its stages at each depth that it can have; empty if it has one depth, of four stages."""
    default_depth: int | None = None
    """Its depth if a spec names none."""

    def stages(self, depth: int | None) -> tuple[str, ...]:
        """Return the names of its stages, in order; a depth of None is the default."""
        return self.stages_by_depth.get(depth or self.default_depth or 0, STAGES)


_RESNET = Traits(has_width=True, has_stem=True, is_stackable=True, names_stages=True)
_SMALL = replace(_RESNET, has_stem=False, has_imagenet=False)
_OWN = {
    # The last hidden layer is no stage: its output is the classifier's input, a site of its own.
    Model.MLP: replace(
        _SMALL,
        stages_by_depth={depth: STAGES[: depth - 1] for depth in range(1, 6)},
        default_depth=2,
    ),
    Model.CNN: replace(
        _SMALL,
        stages_by_depth={depth: STAGES[:depth] for depth in range(1, 5)},
        default_depth=3,
    ),
}


def traits_of(model: Model) -> Traits:
    """Return what a spec can choose of a model."""
    if model in _OWN:
        return _OWN[model]
    if model.value.startswith(("resnet", "wide_resnet")):
        return _RESNET
    if model.value.startswith("resnext"):
        return replace(_RESNET, has_width=False)
    return Traits()


def scaled(channels: int, width: float) -> int:
    """Return how many of the standard channels a width in (0, 1] keeps, at least one."""
    return max(1, math.ceil(channels * width))
