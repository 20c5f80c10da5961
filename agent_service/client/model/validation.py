"""The validation batches of a chunk, drawn from a loader over and over."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from agent_service.client.model.draws import OwnDraws, generators_of

Predict = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Of a model and a batch: logits and labels."""
ONE_PASS = (Generator, map, filter, zip, enumerate, _BaseDataLoaderIter)
"""What is at its end for good; an iterator of a script's own may begin anew."""
_ONCE = "which can be read once: give one that can be read again, as a DataLoader or a list can"


def predict_pair(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch that is a pair of inputs and labels.

    Raises:
        TypeError: the batch is something else, or the model's output is no tensor.
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
    """Return the error for a batch or an output of another kind than is understood."""
    parts = [type(part).__name__ for part in given] if isinstance(given, list | tuple) else ""
    return TypeError(
        f"{name} is a {type(given).__name__}{parts or ''}, not {wanted}: give Validation(loader, "
        "predict=f), where f(model, batch) returns logits and labels"
    )


def placed(inputs: Tensor, model: nn.Module) -> Tensor:
    """Return a model's inputs on its device and, of floats, in its precision."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            is_float = inputs.is_floating_point()
            return inputs.to(parameter.device, parameter.dtype if is_float else inputs.dtype)
    return inputs


class Validation:
    """Takes m batches after m batches of a loader, and starts anew at its end.

    What is drawn for it, by a loader that shuffles, say, leaves the training's draws as they would
    have been without.
    """

    def __init__(
        self, loader: Iterable[Any], *, predict: Predict = predict_pair, batches: int = 20
    ) -> None:
        """Evaluate on a loader.

        Args:
            loader: of validation batches, which are read again and again; one that shuffles draws
                them at random.
            predict: returns logits and labels of one of its batches.
            batches: m, batches of a chunk.

        Raises:
            TypeError: the loader can be read once only.
        """
        if isinstance(loader, ONE_PASS):
            raise TypeError(f"the validation loader is a {type(loader).__name__}, {_ONCE}")
        self._loader = loader
        self._predict = predict
        self._count = batches
        self._batches: Iterator[Any] = iter(())
        self._has_given = False
        self._draws = OwnDraws(generators_of(loader))

    def __getstate__(self) -> dict[str, Any]:
        """Keep what was given: a copy begins with the loader's first batch."""
        return {k: v for k, v in vars(self).items() if k not in ("_batches", "_draws")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._batches = iter(())
        self._draws = OwnDraws(generators_of(self._loader))

    def of(self, model: nn.Module) -> Generator[tuple[Tensor, Tensor]]:
        """Yield logits and labels of the next m batches, in eval mode and without gradient.

        Raises:
            ValueError: the loader is empty, or at its end for good.
            TypeError: batches or outputs are such that a `predict` is needed.
        """
        with evaluating(model), torch.no_grad(), self._draws.taken():
            for _ in range(self._count):
                yield self._predict(model, self._next())

    def first(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return what `of` would yield first, to see before a training whether it can be scored."""
        with evaluating(model), torch.no_grad(), self._draws.taken():
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
            raise ValueError(f"the validation loader gave its batches and no more, {_ONCE}")
        raise ValueError(
            "the validation loader is empty; give one with at least one batch (drop_last=True "
            "drops one that is not full)"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and then each of its modules back into the mode that it had.

    Back by its own `train`, which may do more than set the flag, as those of LoRA layers that merge
    their weights to evaluate.
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
