"""Values that change between chunks, and regularizers that read them in a forward pass.

Outside of compiled graphs the rate is a Python float, and torch's own kernels are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class Value:
    """A number that can change between chunks without recompiling graphs.

    A compiled graph treats a module's Python floats as constants and recompiles for each new value,
    up to eight times. So compiled graphs read the number from a tensor.
    """

    def __init__(self, name: str, devices: Iterable[torch.device]) -> None:
        """Start at 0, with a tensor on each of the model's devices."""
        self.name = name
        self._devices = tuple(devices)
        self.set(0.0)

    def set(self, number: float) -> None:
        """Change the number, without waiting for the device.

        Creates new tensors: a pending backward pass may need the old ones.
        """
        self.number = number
        with torch.inference_mode(False):  # a run may start in inference mode, but train outside
            self._tensors = {
                device: torch.full((), number, dtype=torch.float32, device=device)
                for device in self._devices
            }

    def tensor(self, like: Tensor) -> Tensor:
        """Return the number as float32[] on the device of `like`."""
        return self._tensors[like.device]


_SELU = -1.7580993408473766
"""SELU's saturation for large negative inputs, with which alpha dropout replaces dropped units."""

Regularize = Callable[[Tensor, Value], Tensor]
"""A regularizer added to a module's output."""
Compiled = Callable[[Any, Tensor, Tensor], Tensor]
"""A module's training forward pass for compiled graphs, given the module, x, and its rate as
float32[]."""


def element_dropout(x: Tensor, rate: Value) -> Tensor:
    """Drop elements, as nn.Dropout does."""
    if not torch.compiler.is_compiling():
        return functional.dropout(x, rate.number)
    return _masked(x, rate.tensor(x), x.shape)


def gaussian_noise(x: Tensor, deviation: Value) -> Tensor:
    """Add zero-mean Gaussian noise of this standard deviation."""
    number = deviation.tensor(x) if torch.compiler.is_compiling() else deviation.number
    return x + number * torch.randn_like(x)


def elements(module: Any, x: Tensor, rate: Tensor) -> Tensor:
    """Drop elements, as nn.Dropout does.

    Uses the formula of torch's decomposition of `native_dropout`: with the backend `inductor`, in
    float32, a training at the same rate ends with the same weights, driven or not; with other
    backends and types the masks differ.
    """
    stays = torch.rand_like(x, dtype=torch.float32) > rate
    return _in_place(module, x, stays * x * (1.0 / (1.0 - rate)))


def channels(dimensions: int) -> Compiled:
    """Return a function that drops whole channels, as nn.Dropout1d, 2d and 3d do."""

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
    """Self-normalizing dropout (Klambauer et al. 2017), which preserves mean and variance."""
    keep = 1.0 - rate
    scale = (keep + _SELU**2 * keep * rate) ** -0.5
    stays = _uniform(x, shape) < keep
    return scale * torch.where(stays, x, _SELU) - scale * _SELU * rate


def _uniform(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw from [0, 1), always in float32: bfloat16 has only 256 such numbers."""
    return torch.rand(shape, dtype=torch.float32, device=x.device)
