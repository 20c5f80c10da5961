"""A pool of Ray actors, each with its place on a node of the cluster."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from trainer_service.workers.ray_actor import WorkerActor

IDLE_SECONDS = 10.0
"""How long an idle actor is kept for the next process, which then starts there at once."""
_THREADS = 3
"""Threads of an actor: one receives events, the others serve requests meanwhile."""


class WorkerPool:
    """Creates actors and reuses idle ones; thread-safe.

    Reuse saves the seconds that Ray's new process and the import of torch take.
    """

    def __init__(self, *, cpus: int, gpus: float) -> None:
        """Create an empty pool; each actor reserves `cpus` CPUs and `gpus` GPUs of its node."""
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": _THREADS}
        self._make = ray.remote(WorkerActor).options(**options).remote
        self._lock = threading.Lock()
        self._idle: list[tuple[Any, threading.Timer]] = []
        self.needs = f"{cpus} CPU" + (f", {gpus:g} GPU" if gpus else "")
        """Description of what each actor reserves."""

    def acquire(self) -> Any:
        """Return an idle actor, or a new one that waits until Ray has placed it."""
        with self._lock:
            if not self._idle:
                return self._make()
            actor, timer = self._idle.pop()
        timer.cancel()
        return actor

    def release(self, actor: Any) -> None:
        """Take back an actor whose process has ended."""
        timer = threading.Timer(IDLE_SECONDS, self._expire, [actor])
        timer.daemon = True
        with self._lock:
            self._idle.append((actor, timer))
        timer.start()

    def _expire(self, actor: Any) -> None:
        with self._lock:
            kept = [(other, timer) for other, timer in self._idle if other is not actor]
            is_taken = len(kept) == len(self._idle)
            self._idle = kept
        if not is_taken:
            end_actor(actor)

    def end_idle(self) -> None:
        """End the idle actors: after an actor is lost, they may be on the same node."""
        with self._lock:
            idle, self._idle = self._idle, []
        for actor, timer in idle:
            timer.cancel()
            end_actor(actor)


def end_actor(actor: Any) -> None:
    """End an actor and the process that it hosts; no-op if it is gone."""
    with suppress(RayError, ValueError):
        ray.kill(actor)
