"""Random draws that depend on nothing but their names, by a counter-based generator keyed by them.

Any replica, at any time, draws the same numbers for the same decision, so a decision needs no
state and the log can be verified by deriving it again.
"""

from __future__ import annotations

import hashlib
import math
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec

if TYPE_CHECKING:
    import numpy as np

    from agent_service.domain.store import Situation

# NumPy is imported inside functions alone: the client imports this for the settings above it.


class _Keyed(threading.local):
    """A thread's generator, keyed anew for each decision: making one costs six times as much."""

    def __init__(self) -> None:
        import numpy as np

        self.philox = np.random.Philox(key=0)
        self.fresh: Any = self.philox.state
        self.generator = np.random.Generator(self.philox)


_keyed = cache(_Keyed)


def generator(*, seed: int, run_id: str, chunk: int) -> np.random.Generator:
    """Return the Philox generator of one decision, to be drawn from before the next is asked for.

    Args:
        seed: the controller's seed, unsigned 64 bits.
        run_id: the run that the decision is for.
        chunk: index of the chunk that the decision is for, from 1.
    """
    import numpy as np

    keyed = _keyed()
    name = f"{seed}/{chunk}/{run_id}".encode()
    key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), "<u8")
    keyed.fresh["state"]["key"] = key
    keyed.philox.state = keyed.fresh
    return keyed.generator


def uniform_choice(spec: ControllerSpec, situation: Situation) -> Choice:
    """Return an action drawn from U(-1, 1)^h (Eq. 4), with that law's own log density, -h log 2."""
    draws = generator(seed=spec.seed, run_id=situation.run_id, chunk=situation.chunk)
    h = len(spec.hyperparameters)
    sample = tuple(float(u) for u in draws.uniform(-1.0, 1.0, size=h))
    return Choice(sample, log_probability=-h * math.log(2.0), explored=True)
