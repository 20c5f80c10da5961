"""Regularizers by a value that changes: of added sites, and of driven modules when compiled.

Outside of compiled graphs the rate is a Python float, and torch's own kernels are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agent_service.client.model.value import Value

_SELU = -1.7580993408473766
"""Where SELU saturates for large negative inputs: what alpha dropout puts in place of a unit."""

Regularize = Callable[[Tensor, Value], Tensor]
"""An added site, on a module's output."""
Compiled = Callable[[Any, Tensor, Tensor], Tensor]
"""A module's forward pass in training in a compiled graph: of the module, x, and its rate as
float32[]."""


def element_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop each element, as nn.Dropout does."""
    if not torch.compiler.is_compiling():
        return functional.dropout(x, rate.number)
    return _masked(x, rate.tensor(x), x.shape)


def gaussian_noise(x: Tensor, deviation: Value) -> Tensor:
    """Add zero-mean Gaussian noise of this standard deviation."""
    number = deviation.tensor(x) if torch.compiler.is_compiling() else deviation.number
    return x + number * torch.randn_like(x)


def elements(module: Any, x: Tensor, rate: Tensor) -> Tensor:
    """Drop each element, as nn.Dropout does.

    The formula is that of torch's own decomposition of `native_dropout`: under the backend
    `inductor`, in float32, a training at the same rate ends with the same weights, steered or not;
    under others, and in other types, the masks differ.
    """
    stays = torch.rand_like(x, dtype=torch.float32) > rate
    return _in_place(module, x, stays * x * (1.0 / (1.0 - rate)))


def channels(dimensions: int) -> Compiled:
    """Return what drops whole channels, as nn.Dropout1d, 2d and 3d do for so many dimensions."""

    def drop(module: Any, x: Tensor, rate: Tensor) -> Tensor:
        shape = x.shape[: x.ndim - dimensions] + (1,) * dimensions
        return _in_place(module, x, _masked(x, rate, shape))

    return drop


def alpha(_module: Any, x: Tensor, rate: Tensor) -> Tensor:
    """Drop elements to SELU's negative saturation, as nn.AlphaDropout does."""
    return _alpha_masked(x, rate, x.shape)


def feature_alpha(_module: Any, x: Tensor, rate: Tensor) -> Tensor:
    """Drop whole channels, as nn.FeatureAlphaDropout does."""
    return _alpha_masked(x, rate, x.shape[:2] + (1,) * (x.ndim - 2))


def paths(module: Any, x: Tensor, rate: Tensor) -> Tensor:
    """Drop whole samples of a residual branch, or the whole branch, as timm and torchvision do."""
    samples = 1 if getattr(module, "mode", "row") == "batch" else x.shape[0]
    is_scaled = getattr(module, "scale_by_keep", True)
    return _masked(x, rate, (samples,) + (1,) * (x.ndim - 1), is_scaled=is_scaled)


def _in_place(module: Any, x: Tensor, dropped: Tensor) -> Tensor:
    return x.copy_(dropped) if module.inplace else dropped


def _masked(x: Tensor, rate: Tensor, shape: Sequence[int], *, is_scaled: bool = True) -> Tensor:
    keep = 1.0 - rate
    kept = x / keep if is_scaled else x
    return torch.where(_uniform(x, shape) < keep, kept, 0.0)


def _alpha_masked(x: Tensor, rate: Tensor, shape: Sequence[int]) -> Tensor:
    """Self-normalizing dropout (Klambauer et al. 2017): mean and variance stay what they were."""
    keep = 1.0 - rate
    scale = (keep + _SELU**2 * keep * rate) ** -0.5
    stays = _uniform(x, shape) < keep
    return scale * torch.where(stays, x, _SELU) - scale * _SELU * rate


def _uniform(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw from [0, 1), in float32 whatever the default is: bfloat16 has but 256 such numbers."""
    return torch.rand(shape, dtype=torch.float32, device=x.device)
