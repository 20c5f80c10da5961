"""Places on nodes of Ray's cluster, each held by an actor: taken, given back, let go."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from trainer_service.workers.ray_hand import Hand

IDLE_SECONDS = 10.0
"""How long an actor is held for the next process, which starts there at once."""
_THREADS = 3
"""Of an actor: one hears, others are asked meanwhile."""


class Hands:
    """Actors, each with a place on a node; those that are idle wait a little for the next process.

    What takes seconds, Ray's new process and the import of torch, is then done. Thread-safe.
    """

    def __init__(self, *, cpus: int, gpus: float) -> None:
        """Hold none yet; each needs so many free CPUs and GPUs of a node."""
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": _THREADS}
        self._make = ray.remote(Hand).options(**options).remote
        self._lock = threading.Lock()
        self._idle: list[tuple[Any, threading.Timer]] = []
        self.needs = f"{cpus} CPU" + (f", {gpus:g} GPU" if gpus else "")
        """What a place is, in words."""

    def take(self) -> Any:
        """Return an actor; a new one has no place before Ray finds one."""
        with self._lock:
            if not self._idle:
                return self._make()
            hand, timer = self._idle.pop()
        timer.cancel()
        return hand

    def give_back(self, hand: Any) -> None:
        """Take an actor whose process has ended."""
        timer = threading.Timer(IDLE_SECONDS, self._let_go, [hand])
        timer.daemon = True
        with self._lock:
            self._idle.append((hand, timer))
        timer.start()

    def _let_go(self, hand: Any) -> None:
        with self._lock:
            kept = [(other, timer) for other, timer in self._idle if other is not hand]
            is_taken = len(kept) == len(self._idle)
            self._idle = kept
        if not is_taken:
            end_actor(hand)

    def let_all_go(self) -> None:
        """End those that are idle, since they may be where another was lost."""
        with self._lock:
            idle, self._idle = self._idle, []
        for hand, timer in idle:
            timer.cancel()
            end_actor(hand)


def end_actor(hand: Any) -> None:
    """End an actor, and the process that it holds; nothing where it is gone."""
    with suppress(RayError, ValueError):
        ray.kill(hand)
