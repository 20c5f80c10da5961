"""Periodically abandons runs whose lease expired, in small batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent_service.domain.errors import AgentError
from agent_service.rules.runs import RunService

log = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
"""Bounds of the interval between checks, a quarter of the lease."""


@asynccontextmanager
async def watching_leases(run_service: RunService, *, lease: float) -> AsyncIterator[None]:
    """Abandon runs that are silent for `lease` seconds, while the context lasts."""
    watch = asyncio.create_task(_watch(run_service, lease))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(run_service: RunService, lease: float) -> None:
    while True:
        await asyncio.sleep(min(max(lease / 4, SHORTEST_PAUSE), LONGEST_PAUSE))
        try:
            await _abandon_silent(run_service, lease)
        except AgentError as error:
            # The storage is unavailable; the next check finds the same runs.
            log.warning("leases were not checked: %s", error)


async def _abandon_silent(run_service: RunService, lease: float) -> None:
    count = 0
    while found := await asyncio.wrap_future(run_service.abandon_silent_runs(lease=lease)):
        count += found
    if count:
        log.info("abandoned %d runs: silent for %g s", count, lease)
