"""Ends a service's processes: on Ctrl-C, and when their parent has gone."""

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
    """Let Ctrl-C end this process at once and silently, while there is nothing to save.

    KeyboardInterrupt could be raised anywhere, even in an import or at the interpreter's exit.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def shielding_from_interrupts() -> Iterator[None]:
    """Block SIGINT in processes that this thread starts within the context.

    Ctrl-C in a terminal signals the whole process group, but only the service must react. Child
    processes inherit the signal mask of the thread that starts them.
    """
    resource_tracker.ensure_running()  # first, since starting it would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Exit this process as soon as its parent has gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only for processes started by multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_with_stdin() -> None:
    """Send SIGTERM to this process when its standard input is closed."""

    def watch() -> None:
        # Not by sys.stdin: a reading thread would hold its lock at the interpreter's exit.
        while os.read(_STDIN, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-stdin", daemon=True).start()
