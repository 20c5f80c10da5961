"""File locks, held by one process at a time."""

from __future__ import annotations

import fcntl
from typing import IO


def lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or this process ends.

    Between machines it works if the file system shares locks, as NFS does.

    Returns:
        False if another process holds the lock.

    Raises:
        OSError: the file system does not support locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
