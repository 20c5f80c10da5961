"""Changes that a run makes in the modules that it drives, and how they stay out of copies.

None of it adds a key to the state dictionary.
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

from agent_service.client.model.kinds import Rate
from agent_service.client.model.noise import Regularize, element_dropout, gaussian_noise
from agent_service.client.model.value import Value
from agent_service.client.sites import Dropout, Site
from agent_service.domain.errors import invalid

log = logging.getLogger("agent_service.client")
_TAKES_APART = "__reduce_ex__"
_COPIES = "__deepcopy__"
_DRIVEN = "_driven_by_a_run"
"""In a module's namespace: its forward pass by a rate in a tensor, and the rate."""
_TRACED = "_torchdynamo_inline"
"""In a function: what `torch.compile` traces in its place, in torch 2.6 to 2.14."""


class Takeover:
    """A module that a run drives.

    It stands in the module's namespace as `__reduce_ex__`, by which `copy` and `pickle` take a
    module apart, and hands them the module as its user made it.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take over `module`; nothing in it changes yet.

        Raises:
            InvalidArgument: another run drives it.
        """
        if isinstance(vars(module).get(_TAKES_APART), Takeover):
            raise invalid(
                "model",
                "another run drives it; finish that one first: run.finish(), or "
                "agent_service.client.model.release(model) where its variable is lost",
            )
        self._module = module
        self._own: dict[str, Any] = {}
        self._values: dict[str, Value] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        vars(module)[_TAKES_APART] = self
        # A class may have one, or get one in the run, as by parametrizations; it would come first.
        vars(module).setdefault(_COPIES, self._deep_copy)

    def drive(self, rate: Rate, value: Value) -> None:
        """Let a value drive one of the module's rates."""
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
        """Leave the module as it was; what drives it is cut off, and a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        vars(self._module).update(self._own)
        for key in self._ours():
            del vars(self._module)[key]
        self._own, self._values = {}, {}

    def _ours(self) -> list[str]:
        """Return the keys that stand in the module's namespace because of this."""
        if vars(self._module).get(_TAKES_APART) is not self:
            return []
        ours = {_TAKES_APART, _DRIVEN} & vars(self._module).keys()
        if vars(self._module).get(_COPIES) == self._deep_copy:
            ours.add(_COPIES)
        return sorted(ours)

    def __call__(self, protocol: Any) -> Any:
        """Take the module apart as it was made; see `object.__reduce_ex__`."""
        return self._as_made().__reduce_ex__(protocol)

    def _deep_copy(self, memo: dict[int, Any]) -> Any:
        """Copy the module as it was made; see `object.__deepcopy__`.

        The memo, which knows objects by their address, keeps what is copied: until the copy ends
        no other object has its address, and a module that refers to itself finds its one copy.
        """
        if id(self) not in memo:
            memo[id(self)] = self._as_made()
        return copy.deepcopy(memo[id(self)], memo)

    def _as_made(self) -> Any:
        """Return a module of the same class, tensors and submodules, without what is ours."""
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
    """Leave a model as its run found it, so that another run may drive it.

    For a run that cannot be finished any more, since its variable is lost. The agent is told
    nothing, and takes such a run for abandoned when its lease ends.
    """
    for module in model.modules():
        if isinstance(takeover := vars(module).get(_TAKES_APART), Takeover):
            takeover.undo()


def _let_graphs_read_tensors(cls: type[nn.Module]) -> None:
    """Have `torch.compile` trace `_forward` in place of a class's own forward pass.

    Nobody else looks there: eager calls, TorchScript and wrappers of the user's get the class's
    own. It stays, and does nothing to modules that no run drives.
    """
    own = next(vars(c)["forward"] for c in cls.__mro__ if "forward" in vars(c))
    if isinstance(own, FunctionType) and not hasattr(own, _TRACED):
        name, defaults, closure = own.__name__, own.__defaults__, own.__closure__
        copied = FunctionType(own.__code__, own.__globals__, name, defaults, closure)
        setattr(own, _TRACED, _traced_for(copied))


_own: Any = None
"""In the globals of each copy of `_forward`: a copy of the forward pass that it stands for."""


def _traced_for(own: FunctionType) -> FunctionType:
    """Return `_forward` with `own` among its globals, where the compiler finds it.

    A closure or defaults will not do: the compiler would guard those of the class's own in their
    place. Nor will globals with a `__name__`: it would look into the module of that name.
    """
    names = {"__builtins__": builtins, "_DRIVEN": _DRIVEN, "_own": own}
    return FunctionType(_forward.__code__, names, "_forward")


def _forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A forward pass that reads a driven module's rate from a tensor.

    The attribute would be a constant of the graph.
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
                "sites: nothing is added to the output of a %s, a %s; name a module that returns a "
                "tensor, or a tuple with one first",
                type(module).__name__,
                type(output).__name__,
            )
        return output
