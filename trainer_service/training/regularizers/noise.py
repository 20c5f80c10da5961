"""Gaussian noise after each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.child.models import STAGES
from trainer_service.training.regularizers.regularizer import Regularizer

if TYPE_CHECKING:
    from torch import Tensor


class GaussianNoise(Regularizer):
    """Adds zero-mean Gaussian noise of standard deviation sigma, in [0, 1]."""

    name = "noise"
    fixed, steered = "NI", "RNI"
    strength = Hyperparameter(name="noise", low=0.0, high=1.0)
    default = 0.5
    sites: ClassVar[tuple[str, ...]] = STAGES
    is_normal = True

    def features(self, features: Tensor, numbers: Tensor, strengths: Tensor) -> Tensor:
        """Return x + sigma e."""
        dtype = features.dtype
        return features.addcmul(numbers.to(dtype), strengths.to(dtype))
