"""How a service's processes end: on Ctrl-C, and with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

_STDIN = 0


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process at once and without a word, while nothing is to be kept.

    As an exception it would come up anywhere: in an import, or in the interpreter's end.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def shielding_from_interrupts() -> Iterator[None]:
    """Shield the processes that this thread starts meanwhile from SIGINT, from their first moment.

    Ctrl-C in a terminal reaches a whole group; what it means is the service's to decide. What a
    thread blocks, the processes that it starts block, too.
    """
    resource_tracker.ensure_running()  # multiprocessing's own, whose start unblocks it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
