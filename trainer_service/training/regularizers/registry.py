"""All regularizers, and the methods they make: with fixed values, or under a controller."""

from __future__ import annotations

from dataclasses import dataclass

from agent_service.domain.checks import quoted
from agent_service.domain.errors import invalid
from trainer_service.training.regularizers.dni import DynamicNoise
from trainer_service.training.regularizers.dropout import Dropout
from trainer_service.training.regularizers.noise import GaussianNoise
from trainer_service.training.regularizers.none import NoRegularizer
from trainer_service.training.regularizers.regularizer import Regularizer

REGULARIZERS: dict[str, Regularizer] = {
    regularizer.name: regularizer
    for regularizer in (
        NoRegularizer(),
        GaussianNoise(),
        Dropout(),
        DynamicNoise(),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMethod:
    """A regularizer and whether a controller sets its values."""

    title: str
    """For tables."""
    regularizer: Regularizer
    is_reinforced: bool
    """Whether a controller sets the values."""


def training_methods() -> dict[str, TrainingMethod]:
    """Return all methods by the names that users type; those with fixed values first.

    Raises:
        ValueError: two regularizers have a method of the same name.
    """
    methods: dict[str, TrainingMethod] = {}
    for is_reinforced in (False, True):
        for one in REGULARIZERS.values():
            title = one.steered if is_reinforced else one.fixed
            if title.lower() in methods:
                raise ValueError(f"two regularizers have a method {title!r}: rename one")
            if title:
                methods[title.lower()] = TrainingMethod(
                    title=title, regularizer=one, is_reinforced=is_reinforced
                )
    return methods


def training_method(name: str, *, field: str = "method") -> TrainingMethod:
    """Return the method of a name; raises InvalidArgument listing the known names."""
    methods = training_methods()
    if name not in methods:
        raise invalid(field, f"{quoted(name)} is not one of {', '.join(methods)}")
    return methods[name]


def names_in_words(*, is_reinforced: bool) -> str:
    """Return the methods with fixed values, or those under a controller, joined by `or`."""
    return " or ".join(
        name
        for name, method in training_methods().items()
        if method.regularizer.steered and method.is_reinforced is is_reinforced
    )


def steerable(name: str) -> Regularizer:
    """Return the named regularizer, whose values a controller can set.

    Raises:
        InvalidArgument: field `regularizer`: unknown, or not for controllers.
    """
    found = {name: one for name, one in REGULARIZERS.items() if one.steered}
    if name not in found:
        raise invalid("regularizer", f"{quoted(name)} is not one of {', '.join(found)}")
    return found[name]
