"""The pipe between the service and a run's process: what happened goes up, receipts come down.

A receipt says that an event is stored. The process waits for it before its next event or
checkpoint, so that what is behind a checkpoint is never lost with the service.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from trainer_service.run import What

HAND_BACK = signal.SIGTERM
"""Asks a run's process to keep a checkpoint at its chunk's end, and to end.

It is what a machine's service manager sends to all processes of a service that it stops.
"""
CANCEL = signal.SIGUSR1
"""Asks a run's process to end the run at once."""

_RECEIPT = b""


class Teller:
    """The process's end. Where the service is gone it ends this process: nobody is left to tell."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe, which stays open as long as the process."""
        self._pipe = pipe
        self._is_owed = False

    def tell(self, what: What) -> None:
        """Tell what happened, once what was told before is stored."""
        self.settle()
        self._is_owed = True
        self.tell_last(what)

    def settle(self) -> None:
        """Wait until all that was told is stored."""
        if self._is_owed:
            try:
                self._pipe.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)
            self._is_owed = False

    def tell_last(self, what: What) -> None:
        """Tell how the run leaves this process; nothing may be told after it.

        It waits for no receipt, since a signal may have broken into the reading of one.
        """
        try:
            self._pipe.send(what)
        except OSError:
            os._exit(1)


class Listener:
    """The service's end; a context manager."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe and close it at the end."""
        self._pipe = pipe

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()

    def hear(self, seconds: float) -> What | None:
        """Return what happened next; None where the process is gone.

        Raises:
            TimeoutError: nothing was told for so many seconds.
        """
        if not self._pipe.poll(seconds):
            raise TimeoutError
        try:
            what: What = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return what

    def acknowledge(self) -> None:
        """Say that what was heard is stored."""
        # Where the process is gone, the next hearing says so.
        with suppress(OSError):
            self._pipe.send_bytes(_RECEIPT)
