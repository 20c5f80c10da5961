"""The gRPC servicer: each method decodes, calls, encodes."""
# ruff: noqa: N802  # methods are named as the contract's

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from agent_service.wire.paging import number_token, page_size
from trainer_service.rpc import convert
from trainer_service.runs.queue import RunQueue
from trainer_service.runs.run import RunState
from trainer_service.runs.store import RunStore
from trainer_service.v1 import trainer_pb2 as pb
from trainer_service.v1 import trainer_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

PIECE = 64 * 1024
"""Bytes of weights in one message."""
FOLLOW_SECONDS = 0.1
"""Interval at which a watcher checks for new events."""


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Serves the runs of one device."""

    def __init__(
        self,
        runs: RunQueue,
        store: RunStore,
        *,
        device: pb.Device,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        """Serve a queue and its store; `pause` waits seconds, or raises when the server drains."""
        self._pause = pause
        self._runs = runs
        self._store = store
        self._device = device

    async def SubmitRun(
        self, request: pb.SubmitRunRequest, context: Context
    ) -> pb.SubmitRunResponse:
        """Queue a run."""
        spec = convert.spec_from_message(request.spec)
        with convert.spec_paths():
            run = await asyncio.to_thread(self._runs.submit, request.run_id, spec)
        return pb.SubmitRunResponse(run=convert.run_to_message(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Return a run."""
        run = await asyncio.to_thread(self._runs.get, request.run_id)
        return pb.GetRunResponse(run=convert.run_to_message(run))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Return a page of runs, in the order of submission."""
        limit = page_size(request.page_size)
        page = await asyncio.to_thread(
            self._store.list,
            state=convert.state_from_message(request),
            after=number_token(request.page_token) or 0,
            limit=limit + 1,
        )
        shown = page[:limit]
        return pb.ListRunsResponse(
            runs=[convert.run_to_message(run) for run in shown],
            next_page_token=str(shown[-1].key) if len(page) > limit else "",
        )

    async def CancelRun(
        self, request: pb.CancelRunRequest, context: Context
    ) -> pb.CancelRunResponse:
        """Cancel a run."""
        run = await asyncio.to_thread(self._runs.cancel, request.run_id)
        return pb.CancelRunResponse(run=convert.run_to_message(run))

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """Replay a run's events, then follow them to its end."""
        index = request.after_event
        while True:
            revision = self._store.revision(request.run_id)
            # Before its events: if the run is final by now, no others follow.
            run = await asyncio.to_thread(self._runs.get, request.run_id)
            events = await asyncio.to_thread(self._store.events, request.run_id, after=index)
            for event in events:
                index = event.index
                yield pb.WatchRunResponse(event=convert.event_to_message(event))
            if run.state.is_final:
                return
            # A study watches hundreds of queued runs, which should cost no read of the store.
            while self._store.revision(request.run_id) == revision:
                await self._pause(FOLLOW_SECONDS)

    async def GetWeights(
        self, request: pb.GetWeightsRequest, context: Context
    ) -> AsyncIterator[pb.GetWeightsResponse]:
        """Send a run's weights in pieces."""
        which = convert.which_from_message(request)
        data = await asyncio.to_thread(self._runs.weights, request.run_id, which)
        for start in range(0, len(data), PIECE):
            yield pb.GetWeightsResponse(data=data[start : start + PIECE])

    async def DiscardCheckpoint(
        self, request: pb.DiscardCheckpointRequest, context: Context
    ) -> pb.DiscardCheckpointResponse:
        """Remove a run's checkpoint."""
        run = await asyncio.to_thread(self._runs.discard, request.run_id)
        return pb.DiscardCheckpointResponse(run=convert.run_to_message(run))

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        """Return the device, with its numbers of running and queued runs."""
        counts = await asyncio.to_thread(self._store.count)
        device = pb.Device(running=counts[RunState.RUNNING], queued=counts[RunState.QUEUED])
        device.MergeFrom(self._device)
        return pb.ListDevicesResponse(devices=[device])
