"""Types that name what a run drives in a model: added regularizers, own rates; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout on a module's output: zeroes elements at the driven rate and scales up the rest."""

    hyperparameter: str = ""
    """The hyperparameter that drives it; optional if the controller has only one."""


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Adds zero-mean Gaussian noise to a module's output, with the driven standard deviation."""

    hyperparameter: str = ""
    """The hyperparameter that drives it; optional if the controller has only one."""


Site = Dropout | GaussianNoise

Drives = Mapping[str, str | Sequence[str]]
"""The model's own drop rates that each hyperparameter drives: `MODULE` or `MODULE:ATTRIBUTE`, or
several, each a pattern such as `layer4.*`. A module without wildcards, or an attribute, also
selects what is otherwise left alone: rates of 0, stochastic depth, and unknown modules."""
