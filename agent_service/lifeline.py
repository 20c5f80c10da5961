"""Processes that do not outlive the one that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

_STDIN = 0


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only for processes that multiprocessing started"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_stdin() -> None:
    """Ask this process to end, by SIGTERM, when whoever holds its standard input is gone."""

    def watch() -> None:
        # Not by sys.stdin, whose lock a thread that reads would hold at the interpreter's end.
        while os.read(_STDIN, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-stdin", daemon=True).start()
