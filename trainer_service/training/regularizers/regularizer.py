"""Base class of regularizers; free of torch at import, so that specs can be checked without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.child.models import STAGES

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from trainer_service.training.regularizers.installed import Regularization


class Regularizer:
    """A way to regularize children. The hooks of this base class change nothing.

    Hooks get K children side by side, K = 1 for a child that trains alone. Strengths are tensors on
    the device, overwritten between chunks: hooks that read them in each step need no rebuild,
    recompilation or copy for a new value.
    """

    name: ClassVar[str]
    """Its name in study files."""
    fixed: ClassVar[str]
    """Title of the method with fixed values; in lower case the name that users type."""
    steered: ClassVar[str] = ""
    """Likewise of the method under a controller; empty for none."""
    strength: ClassVar[Hyperparameter]
    """Name and range of the value that drives it."""
    default: ClassVar[float] = 0.0
    """Default strength."""
    is_trained: ClassVar[bool] = False
    """Whether the loss's gradient trains a strength per site, starting from the given value."""
    sites: ClassVar[tuple[str, ...]] = ()
    """Where it changes features: the outputs of the named stages that the child has; the inputs of
    the child (`input`) and of its classifier (`classifier`)."""
    is_normal: ClassVar[bool] = False
    """Whether the sites draw from N(0, 1) instead of U[0, 1)."""

    def sites_among(self, stages: Sequence[str]) -> tuple[str, ...]:
        """Return its sites in a child that has only these of the four stages."""
        return tuple(site for site in self.sites if site in stages or site not in STAGES)

    def hyperparameters(
        self, *, each: bool, stages: Sequence[str] = STAGES
    ) -> tuple[Hyperparameter, ...]:
        """Return the values that can be set between chunks.

        Args:
            each: one strength per site instead of one for all.
            stages: names of the child's stages.
        """
        if self.is_trained:
            return ()
        name = self.strength.name
        names = [f"{name}-{site}" for site in self.sites_among(stages)] if each else []
        return tuple(replace(self.strength, name=name) for name in names or [name])

    def install(self, regularization: Regularization) -> None:
        """Insert its sites into a child."""
        for site in self.sites_among(regularization.stages):
            regularization.add_site(site)

    def features(self, features: Tensor, numbers: Tensor, strengths: Tensor) -> Tensor:
        """Return the features changed, at a site in training mode.

        Args:
            features: float[b, K, c, ...].
            numbers: random, new for each pass; float32 of the same shape.
            strengths: float32[K, 1, ...].
        """
        return features

    def loss(
        self,
        losses: Tensor,
        logits: Tensor,
        labels: Tensor,
        numbers: Sequence[Tensor],
        strengths: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the loss of each image, float32[b, K].

        Args:
            losses: the cross-entropy of each image, float32[b, K].
            logits: float32[b, K, classes].
            labels: int64[b, K].
            numbers: random numbers of each site in this pass.
            strengths: float32[K] of each hyperparameter, by name.
        """
        return losses

    def optimizer(self, optimizer: Optimizer, strengths: Mapping[str, Tensor]) -> None:
        """Change the weights after an optimizer step; runs without gradients.

        Args:
            optimizer: its parameters hold the weights of K children along their first dimension.
            strengths: float32[K] of each hyperparameter, by name.
        """
