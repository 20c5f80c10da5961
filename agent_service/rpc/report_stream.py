"""A stream of reports, answered in order.

A report is processed before its predecessor is answered, so a fleet's reports share commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from agent_service.domain.errors import AgentError, FailedPrecondition, Unavailable
from agent_service.domain.runs import Decision
from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert
from agent_service.wire.status import to_status

UNANSWERED_LIMIT = 1024
"""Maximum number of unanswered reports per stream; no more are read until some are answered."""

_Answer = tuple[pb.ReportChunkRequest, "asyncio.Future[Decision]"]


class ReportStream:
    """Reads and answers one stream of reports."""

    def __init__(
        self, run_service: RunService, *, draining: Callable[[], Awaitable[object]]
    ) -> None:
        """Pass reports to `run_service`, until `draining()` completes."""
        self._run_service = run_service
        self._draining = draining
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue(UNANSWERED_LIMIT)

    async def answer(
        self, requests: AsyncIterator[pb.StreamReportsRequest]
    ) -> AsyncIterator[pb.StreamReportsResponse]:
        """Yield the answer to each request.

        Raises:
            Unavailable: the server is draining; all reports read so far are answered first.
        """
        reading = asyncio.create_task(self._read(requests))
        ending = asyncio.create_task(self._end_when_draining(reading))
        try:
            while (entry := await self._answers.get()) is not None:
                yield await _response(*entry)
        finally:
            ending.cancel()
            reading.cancel()
            self._cancel_unanswered()
        if reading.cancelled():
            raise Unavailable(
                "the service is draining; resend what was not answered to another replica"
            )
        await reading

    async def _read(self, requests: AsyncIterator[pb.StreamReportsRequest]) -> None:
        try:
            async for request in requests:
                await self._answers.put((request.report, self._begin(request.report)))
        finally:
            await self._answers.put(None)

    def _cancel_unanswered(self) -> None:
        """Cancel pending answers, since the stream was cut."""
        while not self._answers.empty():
            entry = self._answers.get_nowait()
            if entry is not None:
                entry[1].cancel()

    async def _end_when_draining(self, reading: asyncio.Task[None]) -> None:
        await self._draining()
        reading.cancel()

    def _begin(self, message: pb.ReportChunkRequest) -> asyncio.Future[Decision]:
        try:
            report = convert.report_from_message(message)
            return asyncio.wrap_future(self._run_service.report_chunk(report))
        except AgentError as error:
            refused: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused


async def _response(
    report: pb.ReportChunkRequest, decision: asyncio.Future[Decision]
) -> pb.StreamReportsResponse:
    response = pb.StreamReportsResponse(run_id=report.run_id, chunk_index=report.chunk_index)
    try:
        response.action.CopyFrom(convert.action_to_message(await decision))
    except AgentError as error:
        status = to_status(error)
        response.code, response.message = status.code, status.message
        if isinstance(error, FailedPrecondition):
            response.expected_chunk = error.expected_chunk or 0
    return response
