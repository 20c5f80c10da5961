"""Reports of many runs over one stream, for a process that trains a fleet."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import grpc

from agent_service.client.delivery import Availability, check_action
from agent_service.client.run import Run
from agent_service.domain.errors import AgentError, Failed, InvalidArgument, Unavailable
from agent_service.domain.rewards import GivenReward, Scores
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc

ANSWER_SECONDS = 0.01
"""Time allowed per report, on top of one call's timeout for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """A report of one run's chunk."""

    run: Run
    losses: Sequence[float]
    """The N training losses, in order."""
    feedback: Scores | GivenReward


class ReportStream:
    """Reports chunks of many runs together; a context manager, which closes the stream.

    A stream handles several times as many reports per second as calls. If it breaks, or the service
    does not support it, reports are sent by calls, and the next ones try a new stream. Not
    thread-safe.
    """

    def __init__(self, stub: agent_pb2_grpc.AgentServiceStub, availability: Availability) -> None:
        """Prepare; the first report opens the stream."""
        self._stub = stub
        self._availability = availability
        self._requests: queue.SimpleQueue[pb.StreamReportsRequest | None] = queue.SimpleQueue()
        self._stream: Any = None

    def report(self, reports: Sequence[FleetReport]) -> list[AgentError | None]:
        """Report one chunk of each of several different runs, and apply their next actions.

        A non-finite loss ends its run as diverged, as in `Run.report`.

        Returns:
            For each report, in order: None if it was accepted or queued, else its error; that run
            is unchanged, and its chunk may be reported again.

        Raises:
            InvalidArgument: a score is out of range; no report was sent.
        """
        requests = [_request(report) for report in reports]
        sent = [request for request in requests if isinstance(request, pb.ReportChunkRequest)]
        answers = iter(self._send(sent))
        errors: list[AgentError | None] = []
        away: Unavailable | None = None
        for report, request in zip(reports, requests, strict=True):
            if not isinstance(request, pb.ReportChunkRequest):
                errors.append(request)
                continue
            # Once the agent is unavailable, the other reports are not tried one by one.
            error = away or _settle(report.run, request, next(answers))
            away = error if isinstance(error, Unavailable) else None
            errors.append(error)
        return errors

    def _send(
        self, requests: Sequence[pb.ReportChunkRequest]
    ) -> list[pb.StreamReportsResponse | None]:
        """Send all, and return the answers in order; None for a report without an answer."""
        if self._availability.is_away:
            return [None] * len(requests)
        if self._stream is None:
            self._stream = self._stub.StreamReports(self._outgoing())
        for request in requests:
            self._requests.put(pb.StreamReportsRequest(report=request))
        answers: list[pb.StreamReportsResponse | None] = []
        # A stream has no deadline per message; without one, a hung agent would block the fleet.
        seconds = self._availability.patience() + ANSWER_SECONDS * len(requests)
        watchdog = threading.Timer(seconds, self._stream.cancel)
        watchdog.start()
        try:
            for _ in requests:
                answers.append(next(self._stream))
        except (grpc.RpcError, StopIteration):
            self.close()
        except BaseException:
            # On Ctrl-C: unread answers must not be taken for those of the next reports.
            self.close()
            raise
        finally:
            watchdog.cancel()
        return answers + [None] * (len(requests) - len(answers))

    def _outgoing(self) -> Iterator[pb.StreamReportsRequest]:
        # Bound here, since a later stream has another queue.
        requests = self._requests
        while (request := requests.get()) is not None:
            yield request

    def close(self) -> None:
        """Close the stream; an open one would keep the interpreter from exiting."""
        self._requests.put(None)
        self._requests = queue.SimpleQueue()
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(report: FleetReport) -> pb.ReportChunkRequest | AgentError | None:
    """Return the request; None if the run ends, or the error if its end cannot be delivered."""
    try:
        return report.run.request(report.losses, report.feedback)
    except InvalidArgument:
        raise
    except AgentError as error:
        return error


def _settle(
    run: Run, request: pb.ReportChunkRequest, answer: pb.StreamReportsResponse | None
) -> AgentError | None:
    """Apply an answer to its run; a report that was refused or not answered is sent by a call."""
    if answer is not None and answer.code == 0:
        with suppress(Failed):
            check_action(request, answer, run.action.values.keys())
            run.take(answer.action)
            return None
    try:
        run.send(request)
    except AgentError as error:
        return error
    return None
