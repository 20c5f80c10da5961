"""The validation batches of a chunk, drawn from a loader over and over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Of a model and a batch: logits and labels."""


def predict_pair(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch that is a pair of inputs and labels."""
    device = next(model.parameters()).device
    inputs, labels = batch
    return model(inputs.to(device)), labels.to(device)


class Validation:
    """Takes m batches after m batches of a loader, and starts anew at its end."""

    def __init__(
        self, loader: Iterable[Any], *, predict: Predict = predict_pair, batches: int = 20
    ) -> None:
        """Evaluate on a loader.

        Args:
            loader: of validation batches; one that shuffles draws them at random.
            predict: returns logits and labels of one of its batches.
            batches: m, batches of a chunk.
        """
        self._loader = loader
        self._predict = predict
        self._count = batches
        self._batches: Iterator[Any] = iter(())

    def of(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and labels of the next m batches, in eval mode and without gradient."""
        with evaluating(model), torch.no_grad():
            for _ in range(self._count):
                yield self._predict(model, self._next())

    def _next(self) -> Any:
        for batch in self._batches:
            return batch
        self._batches = iter(self._loader)
        for batch in self._batches:
            return batch
        raise ValueError("the validation loader is empty; give one with at least one batch")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and then each of its modules back into the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
