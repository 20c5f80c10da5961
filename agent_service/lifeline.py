"""Processes that do not outlive the one that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only for processes that multiprocessing started"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
