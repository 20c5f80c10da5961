"""What can be added to a model where it has no regularization of its own; needs no torch."""

from __future__ import annotations

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
