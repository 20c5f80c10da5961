"""Random draws that depend on nothing but their names: a counter-based generator keyed by them.

Any replica, at any time, draws the same numbers for the same decision, so a decision needs no
state and the log can be verified by deriving it again.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*, seed: int, run_id: str, chunk: int) -> np.random.Generator:
    """Return the Philox generator of one decision.

    Args:
        seed: the controller's seed, unsigned 64 bits.
        run_id: the run that the decision is for.
        chunk: index of the chunk that the decision is for, from 1.
    """
    name = f"{seed}/{chunk}/{run_id}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
