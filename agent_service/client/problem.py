"""What a run's training is about, as far as the client can see; imports torch for a model only.

It looks at counts and settings: nothing is run, drawn or changed. What cannot be told stays
unknown, whatever a strange model, optimizer or loader raises.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from agent_service.domain.problem import Problem

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("agent_service.client")

_ADAMS = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax"}
"""Optimizers of torch, and their subclasses, whose step size means the same."""
_OTHER_OUTPUTS = ("binary-f1", "multilabel-f1", "r2")
"""Scores of models whose outputs are not one for each class."""
_MOST_LAYERS = 8
"""Wrappers that are opened; one that wraps itself ends there."""


def seen_problem(
    *,
    model: nn.Module | None = None,
    sites: int | None = None,
    score: object = None,
    optimizer: Any = None,
    loader: Any = None,
) -> Problem:
    """Return what can be seen of a training.

    Args:
        model: the trained model, wrapped or not.
        sites: rates of it that the run drives.
        score: the run's argument.
        optimizer: its learning rate is that of the first group of parameters, before any schedule.
        loader: of training batches. With torch.distributed a step has one of each process, but
            passes that are accumulated, and parallel parts of a model, are not known of.
    """
    looks: list[tuple[str, Callable[[], object]]] = [("sites", lambda: sites)]
    if loader is not None:
        looks += [
            ("classes", lambda: _named_classes(loader)),
            ("training_samples", lambda: _samples(loader)),
            ("batch_size", lambda: _batch_size(loader)),
        ]
    if optimizer is not None:
        looks.append(("learning_rate", lambda: _learning_rate(optimizer)))
    if model is not None:
        looks.append(("parameters", lambda: _parameters(model)))
        if not (isinstance(score, str) and score in _OTHER_OUTPUTS):
            looks.append(("classes", lambda: _outputs(model)))
    seen = Problem()
    for field, look in looks:
        seen = seen.filled_from(_tried(field, look))
    return seen


def _tried(field: str, look: Callable[[], Any]) -> Problem:
    try:
        return Problem(**{field: look()})
    except Exception as error:  # of any kind: no training may fail for a description of it
        log.debug("%s of the training is unknown: %s: %s", field, type(error).__name__, error)
        return Problem()


def _named_classes(loader: Any) -> int | None:
    for dataset in _opened(loader.dataset, "dataset"):  # as a Subset has one
        if hasattr(dataset, "classes"):
            return None if isinstance(dataset.classes, str) else len(dataset.classes)
    return None


def _opened(wrapped: Any, inner: str) -> Iterator[Any]:
    """Yield an object, then what it wraps, as far as there is such an attribute."""
    for _ in range(_MOST_LAYERS):
        yield wrapped
        wrapped = getattr(wrapped, inner, None)
        if wrapped is None:
            return


def _samples(loader: Any) -> int | None:
    batches = getattr(loader, "batch_sampler", None)
    if batches is None and getattr(loader, "batch_size", 0) is None:
        return None  # the data set may hold batches
    sampler = getattr(batches, "sampler", getattr(loader, "sampler", None))
    # A sampler of several processes counts those of one.
    if sampler is None or hasattr(sampler, "num_replicas"):
        return len(loader.dataset)
    return len(sampler)


def _batch_size(loader: Any) -> object:
    size = getattr(loader, "batch_size", None)
    return (loader.batch_sampler.batch_size if size is None else size) * _processes()


def _processes() -> int:
    """Return how many processes torch.distributed connects; 1 where the script does not use it."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def _learning_rate(optimizer: Any) -> float | None:
    # Of accelerate and Lightning, which wrap it.
    *_, optimizer = _opened(optimizer, "optimizer")
    if not any(_is_adam(kind) for kind in type(optimizer).__mro__):
        return None
    group = optimizer.param_groups[0]
    return float(group.get("initial_lr", group["lr"]))


def _is_adam(kind: type) -> bool:
    return kind.__name__ in _ADAMS and kind.__module__.startswith("torch.optim.")


def _parameters(model: nn.Module) -> int | None:
    if any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules()):
        return None  # each process has a part of them, padded
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _outputs(model: nn.Module) -> int | None:
    """Return the outputs of a model's last layer with weights, if that may be its classifier."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    from agent_service.client.model.selection import unwrapped

    modules = list(unwrapped(model).modules())
    last = [module for module in modules if any(True for _ in module.parameters(recurse=False))][-1]
    if isinstance(last, nn.Linear):
        return last.out_features
    if any(isinstance(module, nn.Linear) for module in modules):
        return None
    if isinstance(last, _ConvNd) and not isinstance(last, _ConvTransposeNd):
        return last.out_channels
    return None
