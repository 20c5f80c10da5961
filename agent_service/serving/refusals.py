"""A log of what is refused, that nobody can fill by being refused."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

LOG_SECONDS = 1.0
"""Between two lines about refusals of one kind, at the least."""


@dataclass(slots=True)
class _Kind:
    logged_at: float = float("-inf")
    unlogged: int = 0


class RefusalLog:
    """Logs a refusal of each kind at most once in a while, and how many there were. Thread-safe."""

    def __init__(self) -> None:
        """Know of none."""
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def tell(self, kind: str, line: str) -> None:
        """Log `line`, unless one of its kind just was; of kinds there are few."""
        with self._lock:
            now = time.monotonic()
            seen = self._kinds.setdefault(kind, _Kind())
            if now - seen.logged_at < LOG_SECONDS:
                seen.unlogged += 1
                return
            more = f" (and {seen.unlogged} more like it before)" if seen.unlogged else ""
            self._kinds[kind] = _Kind(logged_at=now)
        log.warning("%s%s", line, more)
