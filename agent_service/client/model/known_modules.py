"""Registry of known modules: which of their attributes are drop rates, and how each acts.

A new module class is a line in `KNOWN_MODULES`; a library whose modules pass rates to functions,
one in `LIBRARIES`. Rates of other modules are left alone unless the user names them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from agent_service.client.model import noise
from agent_service.client.model.noise import Compiled

STOCHASTIC_DEPTH = "stochastic depth keeps its own schedule"
SINGLE_LAYER = "acts between layers, and there is only one"
UNKNOWN = "not known to act as a drop rate"
UNREAD = "not known to act: its class does not read it"
ZERO = "is 0 by the model's design"


@dataclass(frozen=True, slots=True)
class KnownModule:
    """A known class of modules with drop rates."""

    rates: str
    """Pattern of the attributes' names."""
    compiled: Compiled | None = None
    """Its forward pass with the rate in a tensor, for compiled graphs; None if each new rate
    recompiles the graph."""
    reason: Callable[[Any], str] = lambda _module: ""
    """Why a module's rates are left alone; empty if they are driven."""


@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """An attribute that is a drop rate, or looks like one."""

    name: str
    """The module's name."""
    module: nn.Module
    attribute: str
    reason: str
    """Why it is left alone unless it is named; empty if it is driven."""
    compiled: Compiled | None = None

    @property
    def number(self) -> float:
        """The current rate."""
        return float(getattr(self.module, self.attribute))


def _one_layer(module: nn.RNNBase) -> str:
    return SINGLE_LAYER if module.num_layers == 1 else ""


def _stochastic_depth(_module: nn.Module) -> str:
    return STOCHASTIC_DEPTH


_TORCH = "torch.nn.modules."
KNOWN_MODULES = {
    f"{_TORCH}dropout.Dropout": KnownModule("p", noise.elements),
    f"{_TORCH}dropout.Dropout1d": KnownModule("p", noise.channels(1)),
    f"{_TORCH}dropout.Dropout2d": KnownModule("p", noise.channels(2)),
    f"{_TORCH}dropout.Dropout3d": KnownModule("p", noise.channels(3)),
    f"{_TORCH}dropout.AlphaDropout": KnownModule("p", noise.alpha),
    f"{_TORCH}dropout.FeatureAlphaDropout": KnownModule("p", noise.feature_alpha),
    f"{_TORCH}dropout._DropoutNd": KnownModule("p"),
    f"{_TORCH}activation.MultiheadAttention": KnownModule("dropout"),
    f"{_TORCH}rnn.RNNBase": KnownModule("dropout", reason=_one_layer),
    "torchvision.ops.drop_block.DropBlock2d": KnownModule("p"),
    "torchvision.ops.stochastic_depth.StochasticDepth": KnownModule(
        "p", noise.paths, _stochastic_depth
    ),
    "timm.layers.drop.DropPath": KnownModule("drop_prob", noise.paths, _stochastic_depth),
    "timm.models.layers.drop.DropPath": KnownModule("drop_prob", noise.paths, _stochastic_depth),
}
"""By the class's full name, so that no library is imported."""
LIBRARIES = (
    "timm.layers.",
    "timm.models.",
    "torch_geometric.nn.",
    "torchvision.models.",
    "transformers.models.",
)
"""Their classes pass attributes with `drop` in the name to functions, as drop rates."""
_DEPTH_SUFFIXES = ("DropPath", "StochasticDepth")
"""Suffixes of class names of stochastic depth; many networks have their own copy of it."""
_DEPTH_ATTRIBUTES = ("layerdrop", "layer_dropout", "drop_path", "drop_path_rate")
_NOT_RATES = (f"{_TORCH}loss.", f"{_TORCH}distance.", "torchvision.transforms.", "kornia.")
"""Modules whose `p` is the exponent of a norm, or the probability of an augmentation."""


def rates_of(name: str, module: nn.Module, also: Collection[str] = ()) -> Iterator[Rate]:
    """Yield the attributes of a module that are, or look like, drop rates.

    Args:
        name: the module's name.
        module: the module.
        also: attributes that the user named, whatever they look like.
    """
    classes = type(module).__mro__
    if any(_path(c).startswith(_NOT_RATES) or c.__name__.endswith("Loss") for c in classes):
        return
    known = _kind(classes)
    for attribute in [a for a in vars(module) if a == "p" or "drop" in a or a in also]:
        number = vars(module)[attribute]
        is_count = isinstance(number, int) and attribute != "p" and "drop" not in attribute
        if is_count or not _is_rate(number):
            continue
        kind = known if known and fnmatchcase(attribute, known.rates) else None
        reason = kind.reason(module) if kind else _reason(classes, attribute)
        if not reason and vars(module)[attribute] == 0:
            reason = ZERO
        yield Rate(name, module, attribute, reason, kind.compiled if kind else None)


def _reason(classes: tuple[type, ...], attribute: str) -> str:
    """Return why an attribute of an unknown module is left alone."""
    if any(c.__name__.endswith(_DEPTH_SUFFIXES) for c in classes) or attribute in _DEPTH_ATTRIBUTES:
        return STOCHASTIC_DEPTH
    used = [_path(c) for c in classes if _uses(c, attribute)]
    if "drop" in attribute and any(path.startswith(LIBRARIES) for path in used):
        return ""
    return UNKNOWN if used else UNREAD


def _uses(cls: type, attribute: str) -> bool:
    """Return whether a class reads an attribute outside of its constructor."""
    functions = (inspect.unwrap(f) for name, f in vars(cls).items() if name != "__init__")
    codes = (getattr(function, "__code__", None) for function in functions)
    return any(code is not None and attribute in code.co_names for code in codes)


def _kind(classes: tuple[type, ...]) -> KnownModule | None:
    """Return the known class of a module; None if a subclass has its own forward pass.

    That may use the rate as the probability to keep, or set it itself.
    """
    owner = next(c for c in classes if "forward" in vars(c))
    if classes[0].__name__.endswith(_DEPTH_SUFFIXES) and _path(classes[0]) not in KNOWN_MODULES:
        return None
    known = next((c for c in classes if _path(c) in KNOWN_MODULES), None)
    if known is None or owner.__module__ != known.__module__:
        return None
    return KNOWN_MODULES[_path(known)]


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_rate(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1
