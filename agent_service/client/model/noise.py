"""Regularizers by a value that changes: what a driven module, or an added site, does in training.

Outside of compiled graphs the rate is a Python float, and torch's own kernels are used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent_service.client.model.value import Value

_SELU = -1.7580993408473766
"""Where SELU saturates for large negative inputs: what alpha dropout puts in place of a unit."""

Regularize = Callable[[Tensor, Value], Tensor]


def element_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop each element, as nn.Dropout does."""
    if not torch.compiler.is_compiling():
        return functional.dropout(x, rate.number)
    return _masked(x, rate, x.shape)


def channel_dropout(dimensions: int) -> Regularize:
    """Return what drops whole channels, as nn.Dropout1d, 2d and 3d do for so many dimensions."""
    native = (functional.dropout1d, functional.dropout2d, functional.dropout3d)[dimensions - 1]

    def regularize(x: Tensor, rate: Value) -> Tensor:
        if not torch.compiler.is_compiling():
            return native(x, rate.number)
        return _masked(x, rate, x.shape[: x.ndim - dimensions] + (1,) * dimensions)

    return regularize


def alpha_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop elements to SELU's negative saturation, as nn.AlphaDropout does."""
    if not torch.compiler.is_compiling():
        return functional.alpha_dropout(x, rate.number, True)
    return _alpha_masked(x, rate, x.shape)


def feature_alpha_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop whole channels, as nn.FeatureAlphaDropout does."""
    if not torch.compiler.is_compiling():
        return functional.feature_alpha_dropout(x, rate.number, True)
    return _alpha_masked(x, rate, x.shape[:2] + (1,) * (x.ndim - 2))


def path_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop whole samples of a residual branch, as timm's DropPath does (stochastic depth)."""
    return _masked(x, rate, x.shape[:1] + (1,) * (x.ndim - 1))


def gaussian_noise(x: Tensor, deviation: Value) -> Tensor:
    """Add zero-mean Gaussian noise of this standard deviation."""
    number = deviation.tensor(x) if torch.compiler.is_compiling() else deviation.number
    return x + number * torch.randn_like(x)


def _keep(x: Tensor, rate: Value) -> Tensor | float:
    """Return the probability of what stays."""
    return 1.0 - (rate.tensor(x) if torch.compiler.is_compiling() else rate.number)


def _masked(x: Tensor, rate: Value, shape: torch.Size | tuple[int, ...]) -> Tensor:
    keep = _keep(x, rate)
    return torch.where(torch.rand(shape, device=x.device) < keep, x / keep, 0.0)


def _alpha_masked(x: Tensor, rate: Value, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Self-normalizing dropout (Klambauer et al. 2017): mean and variance stay what they were."""
    keep = _keep(x, rate)
    drop = 1.0 - keep
    scale = (keep + _SELU**2 * keep * drop) ** -0.5
    stays = torch.rand(shape, device=x.device) < keep
    return scale * torch.where(stays, x, _SELU) - scale * _SELU * drop


MODULES: dict[type[nn.Module], Regularize] = {
    nn.Dropout: element_dropout,
    nn.Dropout1d: channel_dropout(1),
    nn.Dropout2d: channel_dropout(2),
    nn.Dropout3d: channel_dropout(3),
    nn.AlphaDropout: alpha_dropout,
    nn.FeatureAlphaDropout: feature_alpha_dropout,
}
"""What each module of torch does; their subclasses may do something else."""
