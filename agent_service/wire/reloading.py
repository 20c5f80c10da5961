"""Values read from files, and reloaded when the files change, as when a secret is rotated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from agent_service.domain.errors import AgentError

log = logging.getLogger(__name__)

T = TypeVar("T")

_Stamp = list[tuple[int, int, int] | None]


class Reloaded(Generic[T]):
    """A value read from files. Thread-safe.

    If the files cannot be read, or do not match because only one of two has been replaced so far,
    the previous value is kept and a warning logged.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Read the files for the first time; raises what `read` raises.

        Args:
            paths: the files.
            read: reads them and returns the value; raises AgentError if they are invalid.
        """
        self._paths = paths
        self._read = read
        self._stamp = self._now()
        self._value = read()

    def get(self) -> T:
        """Return the current value; costs a `stat` of each file."""
        now = self._now()
        if now != self._stamp:
            self._stamp = now
            try:
                self._value = self._read()
            except AgentError as error:
                log.warning("%s; the previous content stays in use", error)
            else:
                log.info("reloaded: %s", ", ".join(map(str, self._paths)))
        return self._value

    def _now(self) -> _Stamp:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
