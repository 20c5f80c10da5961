"""Drives a module's rates, and keeps that out of copies and pickles of the model.

Nothing here adds a key to the state dictionary.
"""

from __future__ import annotations

import builtins
import copy
import logging
from collections import OrderedDict
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from agent_service.client.model.known_modules import Rate
from agent_service.client.model.noise import Regularize, Value, element_dropout, gaussian_noise
from agent_service.client.sites import Dropout, Site
from agent_service.domain.errors import invalid

log = logging.getLogger("agent_service.client")
_REDUCE = "__reduce_ex__"
_DEEPCOPY = "__deepcopy__"
_DRIVEN = "_driven_by_a_run"
"""A module's attribute: a forward pass with the rate in a tensor, and the rate."""
_TRACED = "_torchdynamo_inline"
"""A function's attribute: what `torch.compile` traces instead of it, in torch 2.6 to 2.14."""


class DrivenModule:
    """A module that a run drives.

    Installed as the module's `__reduce_ex__`, which `copy` and `pickle` call, it gives them the
    module as the user made it.
    """

    def __init__(self, module: nn.Module) -> None:
        """Reserve `module`; nothing changes yet.

        Raises:
            InvalidArgument: another run drives it.
        """
        if isinstance(vars(module).get(_REDUCE), DrivenModule):
            raise invalid(
                "model",
                "another run drives it; finish that one first: run.finish(), or "
                "agent_service.client.model.release(model) if its variable is lost",
            )
        self._module = module
        self._own: dict[str, Any] = {}
        self._values: dict[str, Value] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        vars(module)[_REDUCE] = self
        # A class may have, or get during the run, a __deepcopy__, as with parametrizations; `copy`
        # would prefer that to __reduce_ex__.
        vars(module).setdefault(_DEEPCOPY, self._deep_copy)

    def drive(self, rate: Rate, value: Value) -> None:
        """Drive one of the module's rates by a value."""
        self._own[rate.attribute] = vars(self._module)[rate.attribute]
        self._values[rate.attribute] = value
        if rate.compiled is not None:
            vars(self._module)[_DRIVEN] = (rate.compiled, value)
            _let_graphs_read_tensors(type(self._module))

    def add(self, site: Site, value: Value) -> None:
        """Add a regularizer to the module's output."""
        regularize = element_dropout if isinstance(site, Dropout) else gaussian_noise
        self._hooks.append(self._module.register_forward_hook(_Hook(regularize, value)))

    def apply(self) -> None:
        """Set the rates to their values."""
        for attribute, value in self._values.items():
            setattr(self._module, attribute, value.number)

    def undo(self) -> None:
        """Restore the module; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        vars(self._module).update(self._own)
        for key in self._ours():
            del vars(self._module)[key]
        self._own, self._values = {}, {}

    def _ours(self) -> list[str]:
        """Return the attributes that this added to the module."""
        if vars(self._module).get(_REDUCE) is not self:
            return []
        ours = {_REDUCE, _DRIVEN} & vars(self._module).keys()
        if vars(self._module).get(_DEEPCOPY) == self._deep_copy:
            ours.add(_DEEPCOPY)
        return sorted(ours)

    def __call__(self, protocol: Any) -> Any:
        """Reduce the module as the user made it; see `object.__reduce_ex__`."""
        return self._as_made().__reduce_ex__(protocol)

    def _deep_copy(self, memo: dict[int, Any]) -> Any:
        """Copy the module as the user made it; see `object.__deepcopy__`.

        The memo, which identifies objects by address, keeps the copied object alive: so its address
        is not reused during the copy, and a module that refers to itself finds its copy.
        """
        if id(self) not in memo:
            memo[id(self)] = self._as_made()
        return copy.deepcopy(memo[id(self)], memo)

    def _as_made(self) -> Any:
        """Return a module with the same class, tensors and submodules, without our changes."""
        made = object.__new__(type(self._module))
        namespace = vars(self._module) | self._own
        for key in self._ours():
            del namespace[key]
        ids = {hook.id for hook in self._hooks}
        hooks = self._module._forward_hooks.items()
        namespace["_forward_hooks"] = OrderedDict(h for h in hooks if h[0] not in ids)
        vars(made).update(namespace)
        return made


def release(model: nn.Module) -> None:
    """Restore a model, so that another run may drive it.

    For a run that cannot be finished, since its variable is lost. The agent is not notified, and
    marks the run as abandoned when its lease expires.
    """
    for module in model.modules():
        if isinstance(takeover := vars(module).get(_REDUCE), DrivenModule):
            takeover.undo()


def _let_graphs_read_tensors(cls: type[nn.Module]) -> None:
    """Make `torch.compile` trace `_forward` instead of a class's own forward pass.

    Nothing else is affected: eager calls, TorchScript and user wrappers use the class's own. The
    change is permanent and has no effect on modules that no run drives.
    """
    own = next(vars(c)["forward"] for c in cls.__mro__ if "forward" in vars(c))
    if isinstance(own, FunctionType) and not hasattr(own, _TRACED):
        name, defaults, closure = own.__name__, own.__defaults__, own.__closure__
        copied = FunctionType(own.__code__, own.__globals__, name, defaults, closure)
        setattr(own, _TRACED, _traced_for(copied))


_own: Any = None
"""In the globals of each copy of `_forward`: a copy of the forward pass that it replaces."""


def _traced_for(own: FunctionType) -> FunctionType:
    """Return `_forward` with `own` in its globals, where the compiler finds it.

    Not in a closure or defaults: the compiler would guard those of the class's own forward pass
    instead. Without `__name__` in the globals: it would look into the module of that name.
    """
    names = {"__builtins__": builtins, "_DRIVEN": _DRIVEN, "_own": own}
    return FunctionType(_forward.__code__, names, "_forward")


def _forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Run a forward pass that reads a driven module's rate from a tensor.

    The attribute would be a constant in the graph.
    """
    driven = getattr(module, _DRIVEN, None)
    if driven is None:
        return _own(module, *args, **kwargs)
    compiled, value = driven
    x: Tensor = args[0] if args else next(iter(kwargs.values()))
    return compiled(module, x, value.tensor(x)) if module.training else x


class _Hook:
    def __init__(self, regularize: Regularize, value: Value) -> None:
        self._regularize = regularize
        self._value = value
        self._is_warned = False

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, Tensor):
            return self._regularize(output, self._value)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            parts = (self._regularize(output[0], self._value), *output[1:])
            return output._make(parts) if hasattr(output, "_make") else parts
        if not self._is_warned:
            self._is_warned = True
            log.warning(
                "sites: cannot regularize the output of a %s, a %s; name a module that returns a "
                "tensor, or a tuple that starts with one",
                type(module).__name__,
                type(output).__name__,
            )
        return output
