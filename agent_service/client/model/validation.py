"""Validation batches of each chunk, drawn from a loader repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from agent_service.client.model.rng import IsolatedRng, generators_of

Predict = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Returns logits and labels, given a model and a batch."""
ONE_PASS = (Generator, map, filter, zip, enumerate, _BaseDataLoaderIter)
"""Iterators that can be read only once; a script's own iterator may restart."""
_ONCE = "which can be read only once: give one that can be read again, such as a DataLoader"


def predict_pair(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch that is a pair of inputs and labels.

    Raises:
        TypeError: the batch is something else, or the model's output is not a tensor.
    """
    is_pair = isinstance(batch, list | tuple) and len(batch) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in batch):
        raise needs_predict("a validation batch", batch, "a pair of tensors (inputs, labels)")
    inputs, labels = batch
    output = model(placed(inputs, model))
    if not isinstance(output, Tensor):
        raise needs_predict("the model's output", output, "a tensor of logits")
    return output, labels.to(output.device)


def needs_predict(name: str, given: Any, wanted: str) -> TypeError:
    """Return the error for a batch or an output of an unsupported type."""
    parts = [type(part).__name__ for part in given] if isinstance(given, list | tuple) else ""
    return TypeError(
        f"{name} is a {type(given).__name__}{parts or ''}, not {wanted}: give Validation(loader, "
        "predict=f), where f(model, batch) returns logits and labels"
    )


def placed(inputs: Tensor, model: nn.Module) -> Tensor:
    """Move inputs to a model's device, and floats to its precision."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            is_float = inputs.is_floating_point()
            return inputs.to(parameter.device, parameter.dtype if is_float else inputs.dtype)
    return inputs


class Validation:
    """Draws m batches at a time from a loader, and starts over at its end.

    Random numbers drawn for it, for example by a shuffling loader, do not affect the training's.
    """

    def __init__(
        self, loader: Iterable[Any], *, predict: Predict = predict_pair, batches: int = 20
    ) -> None:
        """Evaluate on a loader.

        Args:
            loader: validation batches, read repeatedly; use a shuffling loader for random batches.
            predict: returns logits and labels of a batch.
            batches: m, batches per chunk.

        Raises:
            TypeError: the loader can be read only once.
        """
        if isinstance(loader, ONE_PASS):
            raise TypeError(f"the validation loader is a {type(loader).__name__}, {_ONCE}")
        self._loader = loader
        self._predict = predict
        self._count = batches
        self._batches: Iterator[Any] = iter(())
        self._has_given = False
        self._rng = IsolatedRng(generators_of(loader))

    def __getstate__(self) -> dict[str, Any]:
        """Keep the arguments only: a copy starts with the loader's first batch."""
        return {k: v for k, v in vars(self).items() if k not in ("_batches", "_rng")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._batches = iter(())
        self._rng = IsolatedRng(generators_of(self._loader))

    def of(self, model: nn.Module) -> Generator[tuple[Tensor, Tensor]]:
        """Yield logits and labels of the next m batches, in eval mode and without gradients.

        Raises:
            ValueError: the loader is empty, or exhausted and cannot be read again.
            TypeError: batches or outputs require a `predict` function.
        """
        with evaluating(model), torch.no_grad(), self._rng.active():
            for _ in range(self._count):
                yield self._predict(model, self._next())

    def first(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the next batch without consuming it, to check that batches can be scored."""
        with evaluating(model), torch.no_grad(), self._rng.active():
            batch = self._next()
            self._batches = chain([batch], self._batches)
            return self._predict(model, batch)

    def _next(self) -> Any:
        for batch in self._batches:
            return batch
        self._batches = iter(self._loader)
        for batch in self._batches:
            self._has_given = True
            return batch
        if self._has_given:
            raise ValueError(f"the validation loader is exhausted, {_ONCE}")
        raise ValueError(
            "the validation loader is empty; give one with at least one batch (drop_last=True "
            "drops an incomplete one)"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode within the context, and restore each module's mode after it.

    By the modules' own `train`, which may do more than set the flag, as in LoRA layers that merge
    their weights for evaluation.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])
        for module, is_training in modes:
            if module.training != is_training:
                module.train(is_training)
        for module, is_training in modes:
            module.training = is_training
