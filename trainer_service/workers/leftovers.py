"""The temporary folder of a trainer service's processes, and those that killed services left."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import get_temp_dir
from pathlib import Path

from trainer_service.locks import lock

log = logging.getLogger(__name__)

_MARK = "trainer-service.lock"
"""Held by the service whose folder it is in, for as long as that lives."""


@contextmanager
def temporary_folder() -> Iterator[None]:
    """Hold this process's temporary folder, and remove those of services that were killed.

    It is multiprocessing's: the processes of runs, and those that they start, use it too.
    """
    own = Path(get_temp_dir())
    with (own / f"{_MARK}.new").open("xb") as file:
        lock(file)
        Path(file.name).rename(own / _MARK)  # held already: nobody finds it free
        for folder in own.parent.glob("pymp-*"):
            if folder != own and _was_left(folder):
                log.info("%s is removed: its trainer service was killed", folder)
                shutil.rmtree(folder, ignore_errors=True)
        yield


def _was_left(folder: Path) -> bool:
    """Whether a folder is of a trainer service of this user that is no more."""
    try:
        if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
            return False
        with (folder / _MARK).open("r+b") as file:
            return lock(file)
    except OSError:
        return False
