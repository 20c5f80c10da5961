"""An LRU cache that is bounded by the total size of its entries as well as by their number."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SizedCache(Generic[K, V]):
    """LRU cache; keeps at least the newest entry, whatever its size. Thread-safe."""

    def __init__(self, *, entries: int, size: int) -> None:
        """Limit the number of entries and their total size."""
        self._entries, self._size = entries, size
        self._kept: dict[K, tuple[V, int]] = {}
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None; marks it as used."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                return None
            self._kept[key] = found  # at the end: the first is the least recently used
            return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Store a value of the given size, replacing an existing one."""
        with self._lock:
            self._drop(key)
            self._kept[key] = (value, size)
            self._total += size
            while len(self._kept) > 1 and (
                len(self._kept) > self._entries or self._total > self._size
            ):
                self._drop(next(iter(self._kept)))

    def drop(self, key: K) -> None:
        """Remove a key."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._kept.clear()
            self._total = 0

    def _drop(self, key: K) -> None:
        _value, size = self._kept.pop(key, (None, 0))
        self._total -= size
