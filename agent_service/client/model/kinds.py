"""Registry of known modules: which of their attributes are drop rates, and how each acts.

A new kind is a line in `KINDS`; a library whose modules hand rates to functions, one in
`LIBRARIES`. What is in neither is left alone unless the user names it.
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

COURSE = "stochastic depth keeps its own course"
INERT = "acts between layers, and there is one"
UNKNOWN = "not known to act as a drop rate"
RECORD = "not known to act: its class does not read it"
ZERO = "is 0 by the model's design"


@dataclass(frozen=True, slots=True)
class Kind:
    """How the modules of one class keep their drop rates."""

    rates: str
    """Pattern of the attributes' names."""
    compiled: Compiled | None = None
    """Its forward pass by a rate in a tensor, for compiled graphs; None where each rate compiles
    anew."""
    reason: Callable[[Any], str] = lambda _module: ""
    """Why a module's rates are left alone; empty where they are driven."""


@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """An attribute that is a drop rate, or looks like one."""

    name: str
    """The module's."""
    module: nn.Module
    attribute: str
    reason: str
    """Why it is left alone unless it is named; empty where it is driven."""
    compiled: Compiled | None = None

    @property
    def number(self) -> float:
        """The rate now."""
        return float(getattr(self.module, self.attribute))


def _one_layer(module: nn.RNNBase) -> str:
    return INERT if module.num_layers == 1 else ""


def _course(_module: nn.Module) -> str:
    return COURSE


_TORCH = "torch.nn.modules."
KINDS = {
    f"{_TORCH}dropout.Dropout": Kind("p", noise.elements),
    f"{_TORCH}dropout.Dropout1d": Kind("p", noise.channels(1)),
    f"{_TORCH}dropout.Dropout2d": Kind("p", noise.channels(2)),
    f"{_TORCH}dropout.Dropout3d": Kind("p", noise.channels(3)),
    f"{_TORCH}dropout.AlphaDropout": Kind("p", noise.alpha),
    f"{_TORCH}dropout.FeatureAlphaDropout": Kind("p", noise.feature_alpha),
    f"{_TORCH}dropout._DropoutNd": Kind("p"),
    f"{_TORCH}activation.MultiheadAttention": Kind("dropout"),
    f"{_TORCH}rnn.RNNBase": Kind("dropout", reason=_one_layer),
    "torchvision.ops.drop_block.DropBlock2d": Kind("p"),
    "torchvision.ops.stochastic_depth.StochasticDepth": Kind("p", noise.paths, _course),
    "timm.layers.drop.DropPath": Kind("drop_prob", noise.paths, _course),
    "timm.models.layers.drop.DropPath": Kind("drop_prob", noise.paths, _course),
}
"""By the class's full name, so that no library is needed."""
LIBRARIES = (
    "timm.layers.",
    "timm.models.",
    "torch_geometric.nn.",
    "torchvision.models.",
    "transformers.models.",
)
"""Their classes hand attributes with `drop` in the name to functions, as drop rates."""
_COURSES = ("DropPath", "StochasticDepth")
"""Ends of class names of stochastic depth, of which many networks have a copy of their own."""
_COURSE_RATES = ("layerdrop", "layer_dropout", "drop_path", "drop_path_rate")
_NO_RATES = (f"{_TORCH}loss.", f"{_TORCH}distance.", "torchvision.transforms.", "kornia.")
"""Their `p` is the exponent of a norm, or the probability of an augmentation."""


def rates_of(name: str, module: nn.Module, also: Collection[str] = ()) -> Iterator[Rate]:
    """Yield what is, or looks like, a drop rate of a module.

    Args:
        name: the module's.
        module: any.
        also: attributes that the user named, whatever they look like.
    """
    classes = type(module).__mro__
    if any(_path(c).startswith(_NO_RATES) or c.__name__.endswith("Loss") for c in classes):
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
    """Return why an attribute of a module of no known kind is left alone."""
    if any(c.__name__.endswith(_COURSES) for c in classes) or attribute in _COURSE_RATES:
        return COURSE
    used = [_path(c) for c in classes if _uses(c, attribute)]
    if "drop" in attribute and any(path.startswith(LIBRARIES) for path in used):
        return ""
    return UNKNOWN if used else RECORD


def _uses(cls: type, attribute: str) -> bool:
    """Return whether a class reads an attribute after it is made, or keeps it as a record only."""
    functions = (inspect.unwrap(f) for name, f in vars(cls).items() if name != "__init__")
    codes = (getattr(function, "__code__", None) for function in functions)
    return any(code is not None and attribute in code.co_names for code in codes)


def _kind(classes: tuple[type, ...]) -> Kind | None:
    """Return what a module is; None where a subclass's own forward pass may do something else.

    It may take the rate for the probability to keep, or set it itself.
    """
    owner = next(c for c in classes if "forward" in vars(c))
    if classes[0].__name__.endswith(_COURSES) and _path(classes[0]) not in KINDS:
        return None
    known = next((c for c in classes if _path(c) in KINDS), None)
    if known is None or owner.__module__ != known.__module__:
        return None
    return KINDS[_path(known)]


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_rate(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1
