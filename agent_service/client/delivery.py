"""Delivery of a run's calls: at once, or queued in order while the agent is away."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from google.protobuf.message import Message

from agent_service.client.connection.calls import LEAST_SECONDS, Calls
from agent_service.domain import errors
from agent_service.domain.checks import check_number, fields_by_name
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc

log = logging.getLogger("agent_service.client")

PATIENCE_SECONDS = 2.0
"""Timeout of a call, with `Hold`, before the agent counts as away."""
TRY_SECONDS = 0.5
"""Timeout of a call that probes whether the agent is back."""
PATIENT_PROBE = 3
"""Every n-th probe waits PATIENCE_SECONDS, for an agent that is back but slow."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 120.0
"""Seconds between probes, doubled each time: an agent that accepts connections and never answers
costs a training less than a hundredth of its time."""
STEADY_WAITS = 10
"""If the agent stays back for this many times the last wait, the next outage starts from
SHORTEST_WAIT."""
CATCH_UP_SECONDS = 0.5
"""Time in which one report of each run of a client, together, may deliver queued calls."""
END_SECONDS = 3.0
"""Time that the ends of all runs of a client, together, may wait for an agent that is away."""
SLOW_SECONDS, SLOW_SHARE = 5.0, 0.1
"""The agent is slow if a run waited longer than both this time and this share of its duration."""
_REFUSED = (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition)
"""The run was deleted, was finished by another caller, or conflicts: retries cannot succeed."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """While the agent is away, continue the training under the last action.

    Reports are queued in order and delivered when it is back, each with the values that its chunk
    actually ran under, so they are recorded but not learned from.
    """

    values: Mapping[str, float] | None = None
    """Values to start under if the agent is away from the start, for a run that is given its
    controller's spec. With None a run with a model starts when the agent is back, and one without
    a model raises."""
    limit: int = 100_000
    """Maximum number of queued calls, some 400 bytes each; the next one ends the run."""

    def __post_init__(self) -> None:
        """Check that the limit is a number; raises InvalidArgument."""
        check_number(self.limit, "when_away.limit")


@dataclass(frozen=True, slots=True)
class RunLost:
    """The answer to a report of a run that the agent refuses; the log says why."""


class RankMissing(errors.AgentError):
    """A process of a distributed training has left its run, or does not arrive in time."""


def named(run_id: str) -> str:
    """Return a run's name for the log, avoiding "run run-6d04"."""
    return run_id if run_id.startswith("run") else f"run {run_id}"


def _lost(reports: int) -> str:
    if not reports:
        return "its end was not delivered"
    which = "report was" if reports == 1 else f"{reports} reports were"
    return f"its last {which} not delivered"


_WITH_ACTION = (pb.StartRunRequest, pb.GetRunRequest, pb.ReportChunkRequest)


class Delivery(Protocol):
    """Sends a run's calls."""

    is_shared: bool
    """Whether the training is distributed, and all its processes call this together."""

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the mean of each number over all processes of the training.

        Raises:
            RankMissing: a process does not take part; `send` raises it, too.
        """
        ...

    def send(
        self, request: pb.ReportChunkRequest | pb.FinishRunRequest
    ) -> pb.ReportChunkResponse | RunLost | None:
        """Send a call during the training; return the answer, or None if it is queued."""
        ...

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end after all queued calls; processes need not call this together.

        Args:
            request: the run's end.
            is_best_effort: whether to raise nothing, even without `Hold`.
        """
        ...

    def flush(self) -> None:
        """Deliver queued calls after a run's end."""
        ...


class Availability:
    """Circuit breaker of a client: whether the agent answers, shared by its runs. Thread-safe."""

    def __init__(self) -> None:
        """Assume that it answers."""
        self._lock = threading.Lock()
        self._holding: WeakSet[AgentDelivery] = WeakSet()
        self._why: errors.AgentError | None = None
        self._is_slowness_logged = False
        self._wait, self._back_since = SHORTEST_WAIT, -math.inf
        self._reset()

    def _reset(self) -> None:
        self.is_away = False
        self._next_try = 0.0
        self._back_since = time.monotonic()
        self._probes = 0
        self.end_seconds = END_SECONDS
        """Time that ends of runs may still wait in this outage."""

    def answered(self) -> None:
        """Note that it answered."""
        if self.is_away or self.end_seconds < END_SECONDS:
            with self._lock:
                self._reset()

    def slow(self, spent: float, total: float) -> None:
        """Warn, once, that a training waits for a slow agent."""
        with self._lock:
            is_logged, self._is_slowness_logged = self._is_slowness_logged, True
        if not is_logged:
            log.warning(
                "the agent answers slowly: a training waited for %.0f s of its %.0f s; is it "
                "overloaded, or far away? Larger chunks call it less often",
                spent,
                total,
            )

    def failed(self, error: errors.AgentError) -> None:
        """Note that a call failed: it counts as away."""
        with self._lock:
            now = time.monotonic()
            # A flapping agent is probed as rarely as one that stays away.
            is_same = self.is_away or now - self._back_since < STEADY_WAITS * self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT) if is_same else SHORTEST_WAIT
            self._probes += 1
            self._next_try = now + self._wait
            self._why = error
            self.is_away = True

    @property
    def waited(self) -> float:
        """Seconds that ends of runs have waited in this outage."""
        return END_SECONDS - self.end_seconds

    def patience(self) -> float:
        """Return the timeout of the next call in seconds."""
        is_brief = self.is_away and self._probes % PATIENT_PROBE != PATIENT_PROBE - 1
        return TRY_SECONDS if is_brief else PATIENCE_SECONDS

    def may_try(self) -> bool:
        """Whether to call it: it answers, or a probe is due, which one of several runs makes."""
        if not self.is_away:
            return True
        with self._lock:
            now = time.monotonic()
            is_due = now >= self._next_try
            if is_due:
                self._next_try = now + self._wait
            return is_due

    def share(self) -> float:
        """Return how many seconds one report of a run may spend on the run's queued calls."""
        return CATCH_UP_SECONDS / max(len(self._holding), 1)

    def hold(self, delivery: AgentDelivery) -> None:
        """Note that a run queues calls; warn if it is the first one."""
        with self._lock:
            if not self._holding:
                log.warning("%s; the training goes on meanwhile", self._why)
            self._holding.add(delivery)

    def release(self, delivery: AgentDelivery, *, is_delivered: bool) -> None:
        """Note that a run's queue is empty; log when all queued calls have been delivered."""
        with self._lock:
            if delivery not in self._holding:
                return
            self._holding.discard(delivery)
            if is_delivered and not self._holding:
                log.warning("the agent is back; all queued reports are delivered")


class AgentDelivery:
    """Sends a run's calls to the agent, in order. Not thread-safe."""

    is_shared = False

    def __init__(
        self,
        calls: Calls,
        stub: agent_pb2_grpc.AgentServiceStub,
        hold: Hold | None,
        availability: Availability,
    ) -> None:
        """Call through `calls`; with `hold` None each call returns an answer or raises."""
        self._calls = calls
        self._stub = stub
        self.run_id = ""
        """The run's id, for the log."""
        self.names: frozenset[str] = frozenset()
        """The hyperparameters that each action must have; empty if unknown."""
        self._hold = hold
        self.availability = availability
        self._gives_up = math.inf
        """When the calls of a start time out: they share the timeout of one."""
        self._began, self._spent = math.inf, 0.0
        """Time of the first call, and total seconds spent waiting for answers."""
        self._waiting: deque[tuple[type[Message], bytes]] = deque()
        """Queued calls, serialized: a message object takes six times as much memory."""

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the numbers unchanged: a single process trains."""
        return numbers

    def begin_start(self) -> None:
        """Let all calls until the first report share the timeout of one call."""
        self._gives_up = time.monotonic() + self.availability.patience()

    def ask(self, request: Message) -> Any:
        """Return the answer to a call that is never queued; raises AgentError."""
        if self._hold is None:
            return self._call(request)
        try:
            left = max(self._gives_up - time.monotonic(), LEAST_SECONDS)
            answer = self._call(request, within=min(self.availability.patience(), left))
        except (errors.InvalidArgument, *_REFUSED):
            self.availability.answered()
            raise
        except errors.AgentError as error:
            self.availability.failed(error)
            raise
        self.availability.answered()
        return answer

    def send(self, request: Message) -> Any:
        """Send a call after all queued ones; return its answer, or None if it is queued.

        Raises:
            InvalidArgument: the request is invalid; it is not queued.
            AgentError: the error of another call than a report; without `Hold`, of any call.
        """
        if self._hold is None:
            return self._call(request)
        self._calls.check_process()
        is_of_run = isinstance(request, pb.ReportChunkRequest | pb.FinishRunRequest)
        if is_of_run:
            self._gives_up = math.inf
        if self._calls.is_closed and is_of_run:
            return self._lose(
                "its client was closed during the training, and no longer controls it; end a run "
                "inside the `with` of its client"
            )
        try:
            if self._catch_up():
                return self.ask(request)
        except errors.InvalidArgument as error:
            if not self._waiting:
                raise  # a mistake in the script, which must learn of it here
            return self._lose(error)
        except _REFUSED as error:
            if not is_of_run and not self._waiting:
                raise
            return self._lose(error)
        except errors.AgentError:
            pass  # the agent is away
        return self._keep(request)

    def _catch_up(self) -> bool:
        """Deliver some queued calls; return whether none is left and a call may be tried."""
        if not self.availability.may_try():
            return False
        gives_up = time.monotonic() + self.availability.share()
        delivered = 0
        while self._waiting:
            # At least two per new call, so that the queue shrinks.
            if delivered > 1 and time.monotonic() > gives_up:
                return False
            kind, data = self._waiting[0]
            self.ask(kind.FromString(data))
            self._waiting.popleft()
            delivered += 1
        self.availability.release(self, is_delivered=True)
        return True

    def _keep(self, request: Message) -> RunLost | None:
        assert self._hold is not None
        if len(self._waiting) >= self._hold.limit:
            end = pb.FinishRunRequest(run_id=self.run_id, outcome=pb.OUTCOME_TRUNCATED)
            self._waiting.append((type(end), end.SerializeToString()))
            log.warning(
                "%s ends: %d of its reports are queued for the agent, which is still away, and no "
                "more are kept; the training continues without the agent",
                named(self.run_id),
                self._hold.limit,
            )
            return RunLost()
        self._waiting.append((type(request), request.SerializeToString()))
        self.availability.hold(self)
        return None

    def _lose(self, error: errors.AgentError | str) -> RunLost:
        self._waiting.clear()
        self.availability.release(self, is_delivered=False)
        log.warning(
            "%s ends: %s; the training continues without the agent", named(self.run_id), error
        )
        return RunLost()

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end; with `Hold`, raise nothing and wait a few seconds at most.

        The script's next steps, such as saving its model, must not be lost.

        Raises:
            AgentError: the agent's error, without `Hold`.
        """
        if self._hold is None and not is_best_effort:
            self._call(request)
            return
        self._waiting.append((type(request), request.SerializeToString()))
        self.flush()

    def flush(self) -> None:
        """Deliver queued calls; log what could not be delivered, and drop it."""
        gives_up = time.monotonic() + self.availability.end_seconds
        why: object = "there are too many"
        while self._waiting:
            kind, data = self._waiting[0]
            try:
                self._call(kind.FromString(data), within=max(gives_up - time.monotonic(), 0.0))
            except errors.AgentError as error:
                why = error
                break
            self.availability.answered()
            self._waiting.popleft()
            if time.monotonic() > gives_up:
                break
        undelivered = len(self._waiting)
        if undelivered:
            self.availability.end_seconds = max(gives_up - time.monotonic(), 0.0)
            lost = _lost(sum(kind is pb.ReportChunkRequest for kind, _ in self._waiting))
            self._waiting.clear()
            log.warning(
                "%s: %s: %s; the training and its model are unaffected, and the agent marks the "
                "run as abandoned when its lease expires",
                named(self.run_id),
                lost,
                why,
            )
        self.availability.release(self, is_delivered=not undelivered)

    def _call(self, request: Message, *, within: float | None = None) -> Any:
        method = getattr(self._stub, type(request).__name__.removesuffix("Request"))
        began = time.monotonic()
        answer = self._calls.call(method, request, within=within)
        self._took(began)
        check_action(request, answer, self.names)
        return answer

    def _took(self, began: float) -> None:
        now = time.monotonic()
        self._began = min(self._began, began)
        self._spent += now - began
        total = now - self._began
        if self._spent >= max(SLOW_SECONDS, SLOW_SHARE * total):
            self.availability.slow(self._spent, total)


def check_action(request: Message, answer: Any, names: Set[str]) -> None:
    """Check that an answer's action fits the run.

    Raises:
        Failed: it has no action, or one for another chunk or other hyperparameters.
    """
    if not names or not isinstance(request, _WITH_ACTION):
        return
    action = answer.run.action if isinstance(request, pb.GetRunRequest) else answer.action
    is_next = action.chunk_index >= 1
    if isinstance(request, pb.ReportChunkRequest):
        is_next = action.chunk_index == request.chunk_index + 1
    if not is_next or names != action.values.keys():
        raise errors.Failed(
            f"the agent answered with an invalid action: chunk {action.chunk_index}, "
            f"{sorted(action.values)[:10]}; the run has {sorted(names)[:10]}"
        )
