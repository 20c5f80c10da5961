"""Dropout after each stage and before the classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.child.models import STAGES
from trainer_service.training.regularizers.regularizer import Regularizer

if TYPE_CHECKING:
    from torch import Tensor


class Dropout(Regularizer):
    """Sets a share p, in [0, 0.9], of the features to 0 and scales the others by 1 / (1 - p).

    It stands at five sites in a row, so a default of 0.5, usual for one site, is too much for a
    narrow child: a quarter-width ResNet34 on 300 digits with 30% wrong labels ended at a test score
    of 0.18, and at 0.76 with 0.2.
    """

    name = "dropout"
    fixed, steered = "D", "RD"
    strength = Hyperparameter(name="dropout", low=0.0, high=0.9)
    default = 0.2
    sites = (*STAGES, "classifier")

    def features(self, features: Tensor, numbers: Tensor, strengths: Tensor) -> Tensor:
        """Return x / (1 - p) where the number is at least p, else 0."""
        return features * (numbers >= strengths) / (1.0 - strengths.to(features.dtype))
