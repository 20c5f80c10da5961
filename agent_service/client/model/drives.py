"""What a hyperparameter drives in a model: a module that is there, an attribute, or an added site.

Each is taken out again as if it had never been there; none adds a key to the state dictionary.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from agent_service.client.model.noise import (
    MODULES,
    Regularize,
    element_dropout,
    gaussian_noise,
    path_dropout,
)
from agent_service.client.model.value import Value
from agent_service.client.sites import Dropout, Site
from agent_service.domain.errors import invalid

ATTRIBUTES = (
    "p",
    "dropout",
    "dropout_p",
    "dropout_prob",
    "attention_dropout",
    "attn_dropout",
    "activation_dropout",
    "drop_prob",
)
"""Names under which modules keep a rate that their forward pass hands to a function."""
_AUGMENTATIONS = ("torchvision.transforms", "kornia")
"""Packages whose modules keep the probability of an augmentation as `p`."""


class Drive(Protocol):
    """Something in a model that a value drives."""

    def set(self, number: float) -> None:
        """Take a new value."""
        ...

    def remove(self) -> None:
        """Leave the model as it was."""
        ...


class ModuleDrive:
    """A dropout module whose forward pass reads the value, under torch.compile too."""

    def __init__(self, module: Any, attribute: str, regularize: Regularize, value: Value) -> None:
        """Take over the forward pass of `module`, which keeps its rate in `attribute`.

        Raises:
            InvalidArgument: another run drives it.
        """
        if isinstance(vars(module).get("forward"), _Forward):
            raise invalid("model", "another run drives it; finish that one first")
        self._module = module
        self._attribute = attribute
        self._before = getattr(module, attribute)
        module.forward = _Forward(module, regularize, value)

    def set(self, number: float) -> None:
        """Show the rate, for printing and for those who read it, such as fused attention."""
        setattr(self._module, self._attribute, number)

    def remove(self) -> None:
        """See the protocol."""
        del self._module.forward
        setattr(self._module, self._attribute, self._before)


class _Forward:
    """A module's forward pass; an object and no closure, so that the model can be pickled."""

    def __init__(self, module: nn.Module, regularize: Regularize, value: Value) -> None:
        self._module = module
        self._regularize = regularize
        self._value = value

    def __call__(self, x: Tensor) -> Tensor:
        return self._regularize(x, self._value) if self._module.training else x


class AttributeDrive:
    """A rate that a module hands to a function; compiled, it is a constant of the graph."""

    def __init__(self, module: nn.Module, attribute: str) -> None:
        """Set the attribute from now on."""
        self._module = module
        self._attribute = attribute
        self._before = getattr(module, attribute)

    def set(self, number: float) -> None:
        """See the protocol."""
        setattr(self._module, self._attribute, number)

    def remove(self) -> None:
        """See the protocol."""
        self.set(self._before)


class SiteDrive:
    """A regularizer that was added to a module's output."""

    def __init__(self, module: nn.Module, site: Site, value: Value) -> None:
        """Hook it to `module`."""
        regularize = element_dropout if isinstance(site, Dropout) else gaussian_noise
        self._hook = module.register_forward_hook(_Hook(regularize, value))

    def set(self, number: float) -> None:
        """The hook reads the value itself."""

    def remove(self) -> None:
        """See the protocol."""
        self._hook.remove()


class _Hook:
    def __init__(self, regularize: Regularize, value: Value) -> None:
        self._regularize = regularize
        self._value = value

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self._regularize(output[0], self._value), *output[1:])
        return self._regularize(output, self._value)


def has_rate(module: nn.Module) -> bool:
    """Return whether a module has a rate of its own that can be driven."""
    is_augmentation = type(module).__module__.startswith(_AUGMENTATIONS)
    return _attribute(module) is not None and not is_augmentation


def rate_of(module: nn.Module) -> float:
    """Return the rate of a module that has one."""
    attribute = _attribute(module)
    assert attribute is not None
    return float(getattr(module, attribute))


def drive_of(module: nn.Module, value: Value) -> Drive:
    """Return what drives the rate of a module that has one."""
    attribute = _attribute(module)
    assert attribute is not None
    regularize = MODULES.get(type(module)) or _of_path(module)
    if regularize is None:
        return AttributeDrive(module, attribute)
    return ModuleDrive(module, attribute, regularize, value)


def _attribute(module: nn.Module) -> str | None:
    return next((name for name in ATTRIBUTES if _is_rate(module, name)), None)


def _of_path(module: nn.Module) -> Regularize | None:
    """Recognize timm's DropPath and torchvision's StochasticDepth by name: neither is needed."""
    kind = type(module).__name__
    is_by_row = kind == "StochasticDepth" and getattr(module, "mode", "") == "row"
    return path_dropout if kind == "DropPath" or is_by_row else None


def _is_rate(module: nn.Module, attribute: str) -> bool:
    number = vars(module).get(attribute)
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1
