"""A hyperparameter's value that a model reads in its forward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


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
