"""Watches leases: abandons runs that fell silent, a few at a time, now and then."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from agent_service.domain.errors import AgentError
from agent_service.domain.steering import Steering

log = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
"""Seconds between two looks: a short lease is looked after more often, and none is spun on."""


class LeaseWatch:
    """Abandons silent runs while its context lasts."""

    def __init__(self, steering: Steering, *, lease: float) -> None:
        """Watch the runs of `steering`, abandoning what is silent for `lease` seconds."""
        self._steering = steering
        self._lease = lease
        self._pause = min(max(lease / 4, SHORTEST_PAUSE), LONGEST_PAUSE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leases", daemon=True)

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

    def _watch(self) -> None:
        while not self._stopping.wait(self._pause):
            try:
                self._look()
            except AgentError as error:
                # The storage is away; the next look finds the same runs.
                log.warning("leases were not looked after: %s", error)

    def _look(self) -> None:
        count = 0
        while found := self._steering.abandon_silent_runs(lease=self._lease).result():
            count += found
        if count:
            log.info("%d runs are abandoned: silent for %g s", count, self._lease)
