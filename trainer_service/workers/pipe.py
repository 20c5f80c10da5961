"""The pipe between the service and a run in its process: events go up, receipts come down.

A receipt confirms that an event is stored. The process waits for it before its next event or
checkpoint, so that no event older than a checkpoint can be lost with the service.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from trainer_service.runs.run import EventContent

PREEMPT = signal.SIGTERM
"""Asks a process to save a checkpoint of each run at the end of its chunk, and to exit.

Service managers send it to all processes of a service that they stop.
"""
CANCEL = signal.SIGUSR1
"""Asks a process to end the runs that are marked in the array it shares with the service."""

_RECEIPT = b""


class EventSender:
    """The process's end of the pipe. Exits the process if the service is gone."""

    def __init__(self, pipe: Connection) -> None:
        """Take over the pipe; `send_last` closes it."""
        self._pipe = pipe
        self._is_pending = False

    def send(self, what: EventContent) -> None:
        """Send an event, once the previous one is stored."""
        self.flush()
        self._is_pending = True
        self._send(what)

    def flush(self) -> None:
        """Wait until every event sent is stored."""
        if self._is_pending:
            try:
                self._pipe.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)
            self._is_pending = False

    def send_last(self, what: EventContent) -> None:
        """Send how the run leaves this process, and close the pipe.

        Waits for no receipt, since a signal may have interrupted the read of one.
        """
        self._send(what)
        self._pipe.close()

    def _send(self, what: EventContent) -> None:
        try:
            self._pipe.send(what)
        except OSError:
            os._exit(1)


class EventReceiver:
    """The service's end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        """Take over the pipe; `receive` closes it when the other end is closed."""
        self.pipe = pipe

    def receive(self) -> EventContent | None:
        """Wait for the next event and return it; None if the run has left its process."""
        try:
            what: EventContent = self.pipe.recv()
        except (EOFError, OSError):
            self.pipe.close()
            return None
        return what

    def acknowledge(self) -> None:
        """Confirm that the last event is stored."""
        # If the process is gone, the next `receive` returns None.
        with suppress(OSError):
            self.pipe.send_bytes(_RECEIPT)
