"""Random draws that leave a training's alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

States = list[tuple[Callable[[Any], object], Any]]
"""Of each generator, what sets its state, and the state."""


class OwnDraws:
    """A course of random draws beside that of the training, from the same generators."""

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        """Begin where the training stands at the first draw.

        Args:
            generators: drawn from, besides the global ones of Python, NumPy and torch.
        """
        self._generators = generators
        self._own: States = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Draw from this course within, and leave all generators as they were."""
        trainings = self._states()
        _set(self._own)
        try:
            yield
        finally:
            self._own = self._states()
            _set(trainings)

    def _states(self) -> States:
        states: States = [
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),
            (torch.set_rng_state, torch.get_rng_state()),
        ]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        return states + [(g.set_state, g.get_state()) for g in self._generators]


def _set(states: States) -> None:
    for set_state, state in states:
        set_state(state)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators that a DataLoader and its samplers were given.

    A script may have given its training's loader the same.
    """
    batches = getattr(loader, "batch_sampler", None)
    places = [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    found = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
