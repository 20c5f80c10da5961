"""Values read from files, and read again when the files change, as when a secret is renewed."""

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
    """What `read` makes of some files. Thread-safe.

    Files that cannot be read, or do not fit together while the second of two is still to be
    written, leave the value as it was, and the log says so.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Read a first time.

        Args:
            paths: of the files.
            read: reads them; raises an AgentError where they are wrong, as this does then.
        """
        self._paths = paths
        self._read = read
        self._stamp = self._now()
        self._value = read()

    def get(self) -> T:
        """Return the value as the files are now; costs a `stat` of each."""
        now = self._now()
        if now != self._stamp:
            self._stamp = now
            try:
                self._value = self._read()
            except AgentError as error:
                log.warning("%s; what was read before stays in use", error)
            else:
                log.info("read anew: %s", ", ".join(map(str, self._paths)))
        return self._value

    def _now(self) -> _Stamp:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
