"""Files that one process at a time may hold."""

from __future__ import annotations

import fcntl
from typing import IO


def lock(file: IO[bytes]) -> bool:
    """Hold a file until it is closed, or this process ends in any way.

    Between machines it holds as far as their file system passes locks on, as NFS does.

    Returns:
        Whether nobody else holds it.

    Raises:
        OSError: its file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
