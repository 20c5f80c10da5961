"""The learner as a supervised process of its own, so that serving never waits for learning.

Does not import torch: the process that is started does.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Pause before a learner that died is started again."""


class Supervisor:
    """Keeps one process running `target(*arguments)`: starts it again when it dies.

    A context manager: the process ends with it.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        """Take what to run: importable by name, its arguments picklable; it must not return."""
        self._target = target
        self._arguments = arguments
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _supervise(self) -> None:
        # Not forked: the server's threads and locks are not for the child to inherit.
        spawn = multiprocessing.get_context("spawn")
        while not self._stopping.is_set():
            process = spawn.Process(target=self._target, args=self._arguments)
            process.start()
            self._process = process
            self._wait_for_end(process)
            self._process = None
            if not self._stopping.is_set():
                log.error("learner ended with exit code %s; starting another", process.exitcode)
                self._stopping.wait(RESTART_SECONDS)

    def _wait_for_end(self, process: BaseProcess) -> None:
        while process.is_alive():
            if self._stopping.is_set():
                # Its one transaction is atomic, so it can be ended at any moment.
                process.kill()
            process.join(0.1)
