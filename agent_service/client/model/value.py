"""One hyperparameter's value, where a model reads it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Value:
    """A number that changes between chunks, and no compiled graph with it.

    A compiled graph holds every Python float of a module as a constant and is made anew for each
    value, eight times, and then no more. So there the number is read from a tensor.
    """

    def __init__(self, name: str, devices: Iterable[torch.device]) -> None:
        """Start at 0, with a tensor on each of the model's devices."""
        self.name = name
        self._devices = tuple(devices)
        self.set(0.0)

    def set(self, number: float) -> None:
        """Change it; waits for no device.

        The tensors are new ones: a backward pass to come may need those of the forward pass.
        """
        self.number = number
        with torch.inference_mode(False):  # a run may start in it, and trains outside of it
            self._tensors = {
                device: torch.full((), number, dtype=torch.float32, device=device)
                for device in self._devices
            }

    def tensor(self, like: Tensor) -> Tensor:
        """Return the number as float32[] on the device of `like`."""
        return self._tensors[like.device]
