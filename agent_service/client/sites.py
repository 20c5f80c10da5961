"""Names for the parts of a model that can be driven, its own or added; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeroes each element of a module's output with the driven rate, and scales up the rest."""

    hyperparameter: str = ""
    """What drives it; may be left out where the controller has one hyperparameter."""


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Adds zero-mean Gaussian noise to a module's output; what is driven is its deviation."""

    hyperparameter: str = ""
    """What drives it; may be left out where the controller has one hyperparameter."""


Site = Dropout | GaussianNoise

Drives = Mapping[str, str | Sequence[str]]
"""By hyperparameter, which of a model's own drop rates it drives: `MODULE` or `MODULE:ATTRIBUTE`,
or several, each a pattern such as `layer4.*`. A module without wildcards, or an attribute, also
takes what is left alone else: rates of 0, stochastic depth, and modules that are not known."""
