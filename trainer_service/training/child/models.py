"""Names of children: torchvision's classifiers."""

from __future__ import annotations

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
    "VIT_L_32",
)
"""Children, named as torchvision's in lower case; a test compares the list with its own."""


def is_resnet(model: Model) -> bool:
    """Return whether it is of ResNet's family, which has a choice of stem."""
    return model.value.startswith(("resnet", "resnext", "wide_resnet"))


def has_width(model: Model) -> bool:
    """Return whether its channels can be a share of the standard ones."""
    return model.value.startswith(("resnet", "wide_resnet"))
