"""What a run's training is about: the descriptors that a controller for any problem sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from agent_service.domain.checks import fields_by_name, quoted
from agent_service.domain.errors import invalid

MOST = 10**15
"""The largest count that is taken."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A data set's size, a network's, and an optimizer's step; None where it is not known."""

    classes: int | None = None
    """Classes that the training tells apart, at least 2."""
    training_samples: int | None = None
    """Samples of the training split, at least 1."""
    batch_size: int | None = None
    """Samples of a training step, at least 1."""
    learning_rate: float | None = None
    """Step size of Adam or one of its kin, above 0; leave it out for other optimizers."""
    parameters: int | None = None
    """Trainable parameters of the network, at least 1."""
    sites: int | None = None
    """Places in a row where the controlled regularizer acts, such as dropout layers; at least 1."""

    def __post_init__(self) -> None:
        """Check every range, and keep plain numbers; raises InvalidArgument naming the field."""
        for name, value in self.known().items():
            if name == "learning_rate":
                _check_rate(value)
                object.__setattr__(self, name, float(value))
            else:
                _check_count(name, value, least=2 if name == "classes" else 1)
                object.__setattr__(self, name, int(value))

    def known(self) -> dict[str, Any]:
        """Return the fields that are known, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def filled_from(self, other: Problem) -> Problem:
        """Return this problem, with what is unknown here taken from another."""
        return Problem(**other.known() | self.known())


def _check_rate(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid("learning_rate", f"{quoted(value)} is not a number")
    if not (math.isfinite(value) and float(value) > 0):
        raise invalid("learning_rate", f"{value} must be above 0")


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise invalid(name, f"{quoted(value)} is not a whole number")
    if not least <= int(value) <= MOST:
        raise invalid(name, f"{value} is not in [{least}, {MOST:,}]")
