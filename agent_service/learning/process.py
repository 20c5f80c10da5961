"""The learner as a supervised process of its own, so that serving never waits for learning.

Does not import torch: the process that is started does.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, Self

from agent_service.shutdown import shielding_from_interrupts

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Pause before a learner that died is started again."""
HANG_SECONDS = 600.0
"""Without a sign of life for so long, a learner hangs: many times the longest update seen."""


class Heartbeat:
    """A process's sign of life, seen by the one that started it, to which it is given."""

    def __init__(self) -> None:
        """Begin alive."""
        # Without a lock: a process that is killed while it holds one would take it along.
        self._last: Any = multiprocessing.get_context("spawn").RawValue(ctypes.c_double)
        self.beat()

    def beat(self) -> None:
        """Show life. The clock is the machine's, the same in every process."""
        self._last.value = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        last: float = self._last.value
        return time.monotonic() - last


class Supervisor:
    """Keeps one process running `target(heartbeat, *arguments)`: anew when it dies or hangs.

    A context manager: the process ends with it.
    """

    def __init__(
        self, target: Callable[..., None], *arguments: object, hang_seconds: float = HANG_SECONDS
    ) -> None:
        """Take what to run: importable by name, its arguments picklable; it must not return.

        Args:
            target: called with a `Heartbeat`, which it must beat, and the arguments.
            arguments: of the target.
            hang_seconds: silence after which it is killed and started anew.
        """
        self._target = target
        self._arguments = arguments
        self._hang_seconds = hang_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._process: BaseProcess | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now; None between two."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _supervise(self) -> None:
        # Not forked: the server's threads and locks are not for the child to inherit.
        spawn = multiprocessing.get_context("spawn")
        while not self._stopping.is_set():
            heartbeat = Heartbeat()
            process = spawn.Process(target=self._target, args=(heartbeat, *self._arguments))
            with shielding_from_interrupts():
                process.start()
            self._process = process
            self._wait_for_end(process, heartbeat)
            self._process = None
            if not self._stopping.is_set():
                log.error("learner ended with exit code %s; starting another", process.exitcode)
                self._stopping.wait(RESTART_SECONDS)

    def _wait_for_end(self, process: BaseProcess, heartbeat: Heartbeat) -> None:
        while process.is_alive():
            is_hanging = heartbeat.silence > self._hang_seconds
            if is_hanging:
                log.error("learner hangs: no sign of life for %.0f s", heartbeat.silence)
            if self._stopping.is_set() or is_hanging:
                # Its one transaction is atomic, so it can be ended at any moment.
                process.kill()
            process.join(0.1)
