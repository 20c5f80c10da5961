"""Which of a model's own modules each hyperparameter is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from agent_service.client.model.drives import has_rate
from agent_service.domain.errors import invalid

_WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
"""Under which FSDP, activation checkpoints and torch.compile keep the module that they wrap."""


def select(
    model: nn.Module, hyperparameters: Iterable[str], drives: Mapping[str, str] | None
) -> dict[str, list[nn.Module]]:
    """Return the modules with a rate of their own, by hyperparameter.

    Args:
        model: not wrapped.
        hyperparameters: names of all.
        drives: patterns of module names by hyperparameter; with None the only one has all.

    Raises:
        InvalidArgument: an unknown hyperparameter, several without `drives`, or a module of two.
    """
    names = sorted(hyperparameters)
    if drives is None:
        if len(names) > 1:
            raise invalid("drives", f"say which modules each of {names} drives")
        drives = dict.fromkeys(names, "*")
    owners: dict[str, str] = {}
    selected: dict[str, list[nn.Module]] = {}
    for hyperparameter, pattern in drives.items():
        if hyperparameter not in names:
            raise invalid("drives", f"{hyperparameter!r} is none of {names}")
        for name, module in named_modules(model):
            if not (fnmatchcase(name, pattern) and has_rate(module)):
                continue
            if (other := owners.setdefault(name, hyperparameter)) != hyperparameter:
                raise invalid(f"drives[{hyperparameter}]", f"module {name!r} is driven by {other}")
            selected.setdefault(hyperparameter, []).append(module)
    return selected


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules, each by the name that it has where nothing is wrapped.

    A wrapper comes before what it wraps, under the same name.
    """
    for name, module in model.named_modules():
        yield ".".join(part for part in name.split(".") if part not in _WRAPPERS), module


def unwrapped(model: Any) -> nn.Module:
    """Return the model inside torch.compile's and the parallel wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (inner := getattr(model, "_orig_mod", None)) is not None:
            model = inner
        else:
            return model  # type: ignore[no-any-return]
