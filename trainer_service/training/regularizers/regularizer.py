"""What a regularizer is: a value that knows no tensor until it is asked to change some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from agent_service.domain.hyperparameters import Hyperparameter

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from trainer_service.training.regularizers.installed import Regularization


class Regularizer:
    """One way to regularize a child; all of its hooks leave a training as it is.

    Hooks work on K children whose channels lie side by side; a child alone is the case K = 1.
    Strengths are tensors on the device, in which new values are written between chunks: a hook
    reads them in each step, so nothing is rebuilt, recompiled or copied.
    """

    name: ClassVar[str]
    """As study files call it."""
    fixed: ClassVar[str]
    """Title of its method under fixed values; in lower case the name that users type."""
    steered: ClassVar[str] = ""
    """Likewise where a controller decides; empty where none can."""
    strength: ClassVar[Hyperparameter]
    """What drives it, and its range."""
    default: ClassVar[float] = 0.0
    """The strength where nobody gives one."""
    is_trained: ClassVar[bool] = False
    """Whether the loss's gradient trains the strength of each site, which begins at its value."""
    sites: ClassVar[tuple[str, ...]] = ()
    """Where it changes features: names of stages, of what comes out of them; `input` and
    `classifier`, of what goes into the child and its classifier."""
    is_normal: ClassVar[bool] = False
    """Whether its sites' random numbers are of N(0, 1), else uniform in [0, 1)."""

    def hyperparameters(self, *, each: bool) -> tuple[Hyperparameter, ...]:
        """Return what can be decided.

        Args:
            each: a strength for each site; else one for all.
        """
        if self.is_trained:
            return ()
        name = self.strength.name
        names = [f"{name}-{site}" for site in self.sites] if each else []
        return tuple(replace(self.strength, name=name) for name in names or [name])

    def install(self, regularization: Regularization) -> None:
        """Put its sites into a child."""
        for site in self.sites:
            regularization.add_site(site)

    def features(self, features: Tensor, numbers: Tensor, strengths: Tensor) -> Tensor:
        """Return what a site makes of the features in training mode.

        Args:
            features: float[b, K, c, ...].
            numbers: drawn anew for each pass, float32 of that shape.
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
            numbers: those of each site in this pass.
            strengths: float32[K] of each hyperparameter, by name.
        """
        return losses

    def optimizer(self, optimizer: Optimizer, strengths: Mapping[str, Tensor]) -> None:
        """Change the weights after a step of the optimizer; no gradient is recorded.

        Args:
            optimizer: of weights that hold those of K children one after another.
            strengths: float32[K] of each hyperparameter, by name.
        """
