"""The pipe between the service and a run in its process: what happened goes up, receipts come down.

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
"""Asks a process to keep a checkpoint of each run at its chunk's end, and to end.

It is what a machine's service manager sends to all processes of a service that it stops.
"""
CANCEL = signal.SIGUSR1
"""Asks a process to end a run, or some: those that are marked in the array it shares with us."""

_RECEIPT = b""


class Teller:
    """The process's end. Where the service is gone it ends this process: nobody is left to tell."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe, and close it once the run has left this process."""
        self._pipe = pipe
        self._is_owed = False

    def tell(self, what: What) -> None:
        """Tell what happened, once what was told before is stored."""
        self.settle()
        self._is_owed = True
        self._send(what)

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
        self._send(what)
        self._pipe.close()

    def _send(self, what: What) -> None:
        try:
            self._pipe.send(what)
        except OSError:
            os._exit(1)


class Listener:
    """The service's end."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe, to be waited for; closed where `hear` finds the other end closed."""
        self.pipe = pipe

    def hear(self) -> What | None:
        """Return what happened next, waiting for it; None where the run has left its process."""
        try:
            what: What = self.pipe.recv()
        except (EOFError, OSError):
            self.pipe.close()
            return None
        return what

    def acknowledge(self) -> None:
        """Say that what was heard is stored."""
        # Where the process is gone, the next hearing says so.
        with suppress(OSError):
            self.pipe.send_bytes(_RECEIPT)
