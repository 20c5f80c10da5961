"""The temporary folder of a trainer service's processes; cleans up those of killed services."""

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

_LOCK = "trainer-service.lock"
"""Lock file in the folder, held by its service until that ends."""


@contextmanager
def temporary_folder() -> Iterator[None]:
    """Lock this process's temporary folder, and remove the folders of killed services.

    The folder is multiprocessing's; run processes and their children use it too.
    """
    own = Path(get_temp_dir())
    with (own / f"{_LOCK}.new").open("xb") as file:
        lock(file)
        Path(file.name).rename(own / _LOCK)  # already locked: nobody can find it unlocked
        for folder in own.parent.glob("pymp-*"):
            if folder != own and _is_abandoned(folder):
                log.info("%s is removed: its trainer service was killed", folder)
                shutil.rmtree(folder, ignore_errors=True)
        yield


def _is_abandoned(folder: Path) -> bool:
    """Whether a folder belonged to a trainer service of this user that has ended."""
    try:
        if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
            return False
        with (folder / _LOCK).open("r+b") as file:
            return lock(file)
    except OSError:
        return False
