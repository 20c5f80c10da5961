"""Random numbers for validation that do not disturb the training's."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

States = list[tuple[Callable[[Any], object], Any]]
"""For each generator, a setter of its state, and the state."""
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LEAVES = (str, bytes, int, float, type(None), type, ModuleType, FunctionType, Tensor, np.ndarray)
_LOOKED_AT = 1000


class IsolatedRng:
    """A second stream of random numbers from the training's generators."""

    def __init__(self, generators: Sequence[Any] = ()) -> None:
        """Start from the training's states at the first use.

        Args:
            generators: generators to switch, besides the global ones of Python, NumPy and torch.
        """
        self._generators = generators
        self._own: States = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use this stream within the context, and restore all generators after it."""
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
        return states + [_state(g) for g in self._generators]


def _set(states: States) -> None:
    for set_state, state in states:
        set_state(state)


def _state(generator: Any) -> tuple[Callable[[Any], object], Any]:
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return functools.partial(setattr, bits, "state"), bits.state
    if isinstance(generator, random.Random):
        return generator.setstate, generator.getstate()
    return generator.set_state, generator.get_state()


def generators_of(loader: Any) -> list[Any]:
    """Return the generators that a loader, its samplers, data sets and wrappers hold.

    The training's loader may share them. Visits a limited number of objects.
    """
    seen: dict[int, Any] = {}
    waiting = deque([loader])
    while waiting and len(seen) < _LOOKED_AT:
        place = waiting.popleft()
        if id(place) not in seen:
            seen[id(place)] = place
            waiting += _parts(place)
    return [
        place
        for place in seen.values()
        if isinstance(place, _GENERATORS) and not isinstance(place, random.SystemRandom)
    ]


def _parts(place: Any) -> list[Any]:
    """Return the attributes of an object and its class that may be, or hold, a generator."""
    if isinstance(place, _GENERATORS + _LEAVES):
        return []
    if isinstance(place, dict | list | tuple):
        parts = place.values() if isinstance(place, dict) else place
        return [p for p in islice(parts, _LOOKED_AT) if not isinstance(p, _LEAVES)]
    shared = [part for c in type(place).__mro__ for part in vars(c).values()]
    own = getattr(place, "__dict__", {}).values()
    return [part for part in shared if isinstance(part, _GENERATORS)] + list(own)
