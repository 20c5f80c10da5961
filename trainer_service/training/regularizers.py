"""Regularizers whose strength can change between chunks: nothing is rebuilt or recompiled.

Each reads its strength from a tensor on the device; a new value is written into that tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agent_service.domain.hyperparameters import check_values
from trainer_service.training.spec import (
    DEFAULTS,
    STAGES,
    STRENGTH,
    Method,
    TrainingSpec,
    fixed_values,
    hyperparameters,
)
from trainer_service.training.vision import BasicBlock, Bottleneck, ResNet


class Dropout(nn.Module):
    """Sets a share p of the features to 0 and scales the others by 1 / (1 - p), when training."""

    def __init__(self, rate: Tensor) -> None:
        """Read p, in [0, 0.9], from the scalar tensor `rate`, which stays the caller's."""
        super().__init__()
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, some dropped in training mode."""
        if not self.training:
            return features
        kept = torch.rand_like(features) >= self.rate
        return features * kept / (1.0 - self.rate)


class GaussianNoise(nn.Module):
    """Adds zero-mean Gaussian noise of standard deviation sigma, when training."""

    def __init__(self, deviation: Tensor) -> None:
        """Read sigma, in [0, 1], from the scalar tensor `deviation`, which stays the caller's."""
        super().__init__()
        self.deviation = deviation

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, noisy in training mode."""
        if not self.training:
            return features
        return features + torch.randn_like(features) * self.deviation


class DynamicNoise(nn.Module):
    """DNI's unit: relu(x + alpha e), e ~ N(0, 1) anew in each training pass, x = bn(...).

    This is our reading of [13], of which only this is known here: feature-level noise inside the
    BN+ReLU unit, whose strength follows the training loss's gradient together with the weights
    (Eq. 1). It stands in the place of the ReLU, so that the noise comes between the two.
    """

    def __init__(self, strength: float) -> None:
        """Start with alpha = `strength`."""
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(strength))

    def forward(self, features: Tensor) -> Tensor:
        """Return relu of the features, noisy in training mode."""
        if self.training:
            features = features + self.alpha * torch.randn_like(features)
        return torch.relu(features)


class Regularization:
    """The regularizers of one method, installed in one child."""

    def __init__(self, spec: TrainingSpec, child: ResNet, device: torch.device) -> None:
        """Install the method of `spec` in `child`, which is on `device`."""
        self._hyperparameters = hyperparameters(spec)
        self._tensors = {h.name: torch.zeros((), device=device) for h in self._hyperparameters}
        self._values = dict.fromkeys(self._tensors, 0.0)
        self._strengths: list[nn.Parameter] = []
        if spec.method is Method.DNI:
            strength = spec.values.get(STRENGTH, DEFAULTS[STRENGTH])
            self._strengths = _install_dynamic_noise(child, strength, device)
        elif spec.method.regularizer is not None:
            _install_sites(child, spec.method.regularizer, self._tensors)
            self.apply(fixed_values(spec) or self._values)

    def apply(self, values: Mapping[str, float]) -> None:
        """Set what the sites run under from now on.

        Args:
            values: one for each hyperparameter, by name; none for vanilla and DNI.

        Raises:
            InvalidArgument: where one is missing, unknown or out of range.
        """
        check_values(self._hyperparameters, values, field="values")
        for name, value in values.items():
            self._tensors[name].fill_(value)
        self._values = dict(values)

    def values(self) -> dict[str, float]:
        """Return what the sites run under; DNI's mean |alpha| is read off the device."""
        if self._strengths:
            alphas = torch.stack([alpha.detach() for alpha in self._strengths])
            return {STRENGTH: float(alphas.abs().mean())}
        return dict(self._values)


def _install_sites(child: ResNet, regularizer: str, tensors: Mapping[str, Tensor]) -> None:
    """Put a regularizer after each stage, and dropout before the classifier, too."""
    make = Dropout if regularizer == "dropout" else GaussianNoise

    def tensor(site: str) -> Tensor:
        return tensors.get(f"{regularizer}-{site}", tensors.get(regularizer, torch.empty(0)))

    for stage in STAGES:
        setattr(child, stage, nn.Sequential(*getattr(child, stage), make(tensor(stage))))
    if regularizer == "dropout":
        child.fc = nn.Sequential(make(tensor("classifier")), child.fc)


def _install_dynamic_noise(
    child: ResNet, strength: float, device: torch.device
) -> list[nn.Parameter]:
    """Put a DNI unit in place of each ReLU that directly follows a batch norm.

    These are the stem's and those inside the blocks. A block's last ReLU follows the addition of
    the shortcut, not a batch norm, so it is no BN+ReLU unit and stays as it is.
    """
    units = [DynamicNoise(strength).to(device)]
    child.relu = units[0]
    for block in child.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            count = 1 if isinstance(block, BasicBlock) else 2
            inner = [DynamicNoise(strength).to(device) for _ in range(count)]
            block.relu = _ReluByPlace(inner)
            units += inner
    return [unit.alpha for unit in units]


class _ReluByPlace(nn.Module):
    """A block's one ReLU module, called in turn for its BN+ReLU units and at its end."""

    def __init__(self, units: list[DynamicNoise]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self._place = 0

    def forward(self, features: Tensor) -> Tensor:
        """Return relu: by the units in order, then a plain one."""
        place = self._place
        self._place = (place + 1) % (len(self.units) + 1)
        if place < len(self.units):
            noisy: Tensor = self.units[place](features)
            return noisy
        return torch.relu(features)
