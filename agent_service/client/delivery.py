"""How a run's calls reach the agent: at once, or held back in order while it is away."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent_service.client.calls import CALL_SECONDS, Calls
from agent_service.domain.errors import AgentError, ResourceExhausted, Unavailable
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc

log = logging.getLogger("agent_service.client")

TRY_SECONDS = 2.0
"""Deadline of a call that only looks whether the agent is back."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds between such calls: doubled each time, so that an agent that hangs costs little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """While the agent is away, the training goes on under the last action.

    Reports are kept in order and delivered when it is back, each with what its chunk truly ran
    under, so what was held is recorded and not learned from.
    """

    values: Mapping[str, float] | None = None
    """What to train under where the agent is away from the beginning, for a run that is given its
    controller's spec; with None that raises."""
    limit: int = 100_000
    """Reports that are kept at the most, some 400 bytes each; the next one raises."""


Request = (
    pb.CreateControllerRequest | pb.StartRunRequest | pb.ReportChunkRequest | pb.FinishRunRequest
)


class Delivery(Protocol):
    """Where a run's calls go."""

    def send(self, request: pb.ReportChunkRequest) -> pb.ReportChunkResponse | None:
        """Send a report; return the answer, None where the report is held."""
        ...

    def finish(self, request: pb.FinishRunRequest) -> None:
        """Send the run's end."""
        ...


class AgentDelivery:
    """A run's calls to the agent, in order. Not thread-safe."""

    def __init__(
        self, calls: Calls, stub: agent_pb2_grpc.AgentServiceStub, hold: Hold | None
    ) -> None:
        """Call by `calls`; with `hold` None every call is answered or raises."""
        self._calls = calls
        self._methods = {
            pb.CreateControllerRequest: stub.CreateController,
            pb.StartRunRequest: stub.StartRun,
            pb.ReportChunkRequest: stub.ReportChunk,
            pb.FinishRunRequest: stub.FinishRun,
        }
        self._hold = hold
        self._waiting: deque[tuple[type[Request], bytes]] = deque()
        """As they are sent: a message takes six times as much memory."""
        self._is_away = False
        self._next_try = 0.0
        self._wait = SHORTEST_WAIT

    def send(self, request: Request) -> Any:
        """Send a call after all that wait; return its response, None where it waits now, too.

        Raises:
            ResourceExhausted: as many wait as may.
            AgentError: what the agent answered; that call waits no longer.
        """
        if self._hold is None:
            return self._call(request)
        if len(self._waiting) >= self._hold.limit:
            raise ResourceExhausted(
                f"{self._hold.limit} reports wait for the agent, which is still away"
            )
        self._waiting.append((type(request), request.SerializeToString()))
        if self._is_away and time.monotonic() < self._next_try:
            return None
        return self._deliver(budget=0.0 if self._is_away else None)

    def finish(self, request: pb.FinishRunRequest) -> None:
        """Send the run's end after all that wait, with the patience of a first call.

        Where the agent is still away, a run that holds says so in the log and goes on: what the
        script does next, such as saving its model, must not be lost.

        Raises:
            AgentError: what the agent answered; Unavailable where the run does not hold.
        """
        if self._hold is None:
            self._call(request)
            return
        self._waiting.append((type(request), request.SerializeToString()))
        if self._deliver(budget=None) is None:
            log.error(
                "run %s: %d calls were held and not delivered; the agent takes it for abandoned "
                "when its lease ends",
                request.run_id,
                len(self._waiting),
            )

    def _deliver(self, *, budget: float | None) -> Any:
        """Send what waits, in order; return the last response, None where the agent is away."""
        response = None
        while self._waiting:
            kind, data = self._waiting[0]
            try:
                response = self._call(kind.FromString(data), budget=budget)
            except Unavailable as error:
                self._go_away(error)
                return None
            except AgentError:
                self._waiting.popleft()
                raise
            self._waiting.popleft()
            budget = None
        self._come_back()
        return response

    def _call(self, request: Request, *, budget: float | None = None) -> Any:
        deadline = CALL_SECONDS if budget is None else TRY_SECONDS
        method: Any = self._methods[type(request)]
        return self._calls.call(method, request, budget=budget, deadline=deadline)

    def _go_away(self, error: Unavailable) -> None:
        if self._is_away:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        else:
            self._is_away, self._wait = True, SHORTEST_WAIT
            log.warning("%s; the training goes on under its last values", error)
        self._next_try = time.monotonic() + self._wait

    def _come_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.warning("the agent is back; what was held is delivered")
