"""A cache that is bounded by what it holds, not only by how many."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SizedCache(Generic[K, V]):
    """Keeps what was used last, and the newest entry however large it is. Thread-safe."""

    def __init__(self, *, entries: int, size: int) -> None:
        """Take how many entries are kept at the most, and their size together."""
        self._entries, self._size = entries, size
        self._kept: dict[K, tuple[V, int]] = {}
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return what was put under a key, if it is kept; it counts as used."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                return None
            self._kept[key] = found  # at the end: the first is the one unused for longest
            return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of some size, in place of the one that is there."""
        with self._lock:
            self._drop(key)
            self._kept[key] = (value, size)
            self._total += size
            while len(self._kept) > 1 and (
                len(self._kept) > self._entries or self._total > self._size
            ):
                self._drop(next(iter(self._kept)))

    def drop(self, key: K) -> None:
        """Forget what is under a key."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._total = 0

    def _drop(self, key: K) -> None:
        _value, size = self._kept.pop(key, (None, 0))
        self._total -= size
