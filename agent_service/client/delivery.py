"""How a run's calls reach the agent: at once, or held back in order while it is away."""

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

from agent_service.client.connection.calls import LEAST_SECONDS, Calls
from agent_service.domain.checks import check_number, fields_by_name
from agent_service.domain.errors import (
    AgentError,
    AlreadyExists,
    Failed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc

log = logging.getLogger("agent_service.client")

PATIENCE_SECONDS = 2.0
"""For how long a call of a run that holds is tried before the agent counts as away."""
TRY_SECONDS = 0.5
"""The same of a call that looks whether the agent is back."""
PATIENT_LOOK = 3
"""One look of so many takes all the patience: an agent may be back, and slower than others."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 120.0
"""Seconds between such calls, doubled each time: an agent that accepts connections and never
answers costs a training less than a hundredth of its time."""
STEADY_WAITS = 10
"""An agent that is back for as many times the last wait has an outage of its own next time."""
CATCH_UP_SECONDS = 0.5
"""For how long one report of each run of a client, together, delivers what they held."""
END_SECONDS = 3.0
"""What the ends of all runs of a client may wait for an agent that is away, together."""
SLOW_SECONDS, SLOW_SHARE = 5.0, 0.1
"""Answers are slow once a run has waited for longer than this, and for this share of its time."""
_REFUSED = (NotFound, AlreadyExists, FailedPrecondition)
"""The run was deleted, finished by somebody else, or told otherwise: no later call can mend it."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """While the agent is away, the training goes on under the last action.

    Reports are kept in order and delivered when it is back, each with what its chunk truly ran
    under, so what was held is recorded and not learned from.
    """

    values: Mapping[str, float] | None = None
    """Values to begin under where the agent is away from the start, for a run that is given its
    controller's spec. With None a run with a model begins when the agent is back, and one without
    a model raises."""
    limit: int = 100_000
    """Calls that are kept at the most, some 400 bytes each; the next one ends the run."""

    def __post_init__(self) -> None:
        """Check that the limit is a number; raises InvalidArgument."""
        check_number(self.limit, "when_away.limit")


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer to a report where the agent takes no more of the run; the log says why."""


class Apart(AgentError):
    """The processes of a training do not meet for their run: one has left it, or does not come."""


def named(run_id: str) -> str:
    """Return a run as the log names it: not "run run-6d04"."""
    return run_id if run_id.startswith("run") else f"run {run_id}"


def _lost(reports: int) -> str:
    if not reports:
        return "its end was not told"
    told = "report was" if reports == 1 else f"{reports} reports were"
    return f"its last {told} not delivered"


Request = (
    pb.GetControllerRequest
    | pb.GetRunRequest
    | pb.CreateControllerRequest
    | pb.StartRunRequest
    | pb.ReportChunkRequest
    | pb.FinishRunRequest
)


_WITH_ACTION = (pb.StartRunRequest, pb.GetRunRequest, pb.ReportChunkRequest)


class Delivery(Protocol):
    """Where a run's calls go."""

    is_shared: bool
    """Whether several processes train together, and call this together."""

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the mean of each number over all processes of the training.

        Raises:
            Apart: they do not meet; so does `send`.
        """
        ...

    def send(
        self, request: pb.ReportChunkRequest | pb.FinishRunRequest
    ) -> pb.ReportChunkResponse | Lost | None:
        """Send a call in the middle of a training; return the answer, None where it is held."""
        ...

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end after all that waits; processes need not call this together.

        Args:
            request: the end.
            is_best_effort: whether even a run that does not hold raises nothing.
        """
        ...

    def flush(self) -> None:
        """Deliver what still waits after a run's end."""
        ...


class Presence:
    """Whether the agent answers, as all runs of one client know it. Thread-safe."""

    def __init__(self) -> None:
        """Take it to be there."""
        self._lock = threading.Lock()
        self._holding: WeakSet[AgentDelivery] = WeakSet()
        self._why: AgentError | None = None
        self._is_slow_said = False
        self._wait, self._back_since = SHORTEST_WAIT, -math.inf
        self._came()

    def _came(self) -> None:
        self.is_away = False
        self._next_try = 0.0
        self._back_since = time.monotonic()
        self._looks = 0
        self.end_seconds = END_SECONDS
        """What is left of the time that ends may wait in this outage."""

    def answered(self) -> None:
        """Take it to be there from now on."""
        if self.is_away or self.end_seconds < END_SECONDS:
            with self._lock:
                self._came()

    def slow(self, spent: float, total: float) -> None:
        """Warn, once, of an agent that answers so slowly that a training waits for it."""
        with self._lock:
            is_said, self._is_slow_said = self._is_slow_said, True
        if not is_said:
            log.warning(
                "the agent answers slowly: a training waited for %.0f s of its %.0f s; is it "
                "overloaded, or far away? Larger chunks ask it less often",
                spent,
                total,
            )

    def failed(self, error: AgentError) -> None:
        """Take it to be away, as a call that was tried says."""
        with self._lock:
            now = time.monotonic()
            # One that comes and goes is looked for as seldom as one that stays away.
            is_same = self.is_away or now - self._back_since < STEADY_WAITS * self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT) if is_same else SHORTEST_WAIT
            self._looks += 1
            self._next_try = now + self._wait
            self._why = error
            self.is_away = True

    @property
    def waited(self) -> float:
        """Seconds that the ends of runs have waited for it in this outage."""
        return END_SECONDS - self.end_seconds

    def patience(self) -> float:
        """Return for how many seconds the next call is tried."""
        is_brief = self.is_away and self._looks % PATIENT_LOOK != PATIENT_LOOK - 1
        return TRY_SECONDS if is_brief else PATIENCE_SECONDS

    def may_try(self) -> bool:
        """Whether it is there, or it is time to look: one of several runs is told so."""
        if not self.is_away:
            return True
        with self._lock:
            now = time.monotonic()
            is_due = now >= self._next_try
            if is_due:
                self._next_try = now + self._wait
            return is_due

    def share(self) -> float:
        """Return for how many seconds one report of a run may deliver what the run held."""
        return CATCH_UP_SECONDS / max(len(self._holding), 1)

    def hold(self, delivery: AgentDelivery) -> None:
        """Warn when the first run begins to hold."""
        with self._lock:
            if not self._holding:
                log.warning("%s; the training goes on meanwhile", self._why)
            self._holding.add(delivery)

    def release(self, delivery: AgentDelivery, *, is_delivered: bool) -> None:
        """Say when the last run that held has delivered."""
        with self._lock:
            if delivery not in self._holding:
                return
            self._holding.discard(delivery)
            if is_delivered and not self._holding:
                log.warning("the agent is back; what was held is delivered")


class AgentDelivery:
    """A run's calls to the agent, in order. Not thread-safe."""

    is_shared = False

    def __init__(
        self,
        calls: Calls,
        stub: agent_pb2_grpc.AgentServiceStub,
        hold: Hold | None,
        presence: Presence,
    ) -> None:
        """Call by `calls`; with `hold` None every call is answered or raises."""
        self._calls = calls
        self._methods = {
            pb.GetControllerRequest: stub.GetController,
            pb.GetRunRequest: stub.GetRun,
            pb.CreateControllerRequest: stub.CreateController,
            pb.StartRunRequest: stub.StartRun,
            pb.ReportChunkRequest: stub.ReportChunk,
            pb.FinishRunRequest: stub.FinishRun,
        }
        self.run_id = ""
        """Of the run, for the log."""
        self.names: frozenset[str] = frozenset()
        """Of its hyperparameters, which every action has; empty where they are not known."""
        self._hold = hold
        self._presence = presence
        self._gives_up = math.inf
        """When the calls of a start, which share the patience of one, have had it."""
        self._began, self._spent = math.inf, 0.0
        """When the first call was made, and seconds that answers have taken."""
        self._waiting: deque[tuple[type[Request], bytes]] = deque()
        """As they are sent: a message takes six times as much memory."""

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the numbers as they are: one process trains."""
        return numbers

    def begin_start(self) -> None:
        """Have all calls up to the first report share the patience of one."""
        self._gives_up = time.monotonic() + self._presence.patience()

    def ask(self, request: Request) -> Any:
        """Return the answer to a call that is not held; raises AgentError."""
        if self._hold is None:
            return self._call(request)
        try:
            left = max(self._gives_up - time.monotonic(), LEAST_SECONDS)
            answer = self._call(request, within=min(self._presence.patience(), left))
        except (InvalidArgument, *_REFUSED):
            self._presence.answered()
            raise
        except AgentError as error:
            self._presence.failed(error)
            raise
        self._presence.answered()
        return answer

    def send(self, request: Request) -> Any:
        """Send a call after all that wait; return its answer, None where it waits now, too.

        Raises:
            InvalidArgument: the request is wrong; it does not wait.
            AgentError: what was answered to another call than a report; or to any, where the run
                does not hold.
        """
        if self._hold is None:
            return self._call(request)
        self._calls.check_process()
        is_of_run = isinstance(request, pb.ReportChunkRequest | pb.FinishRunRequest)
        if is_of_run:
            self._gives_up = math.inf
        if self._calls.is_closed and is_of_run:
            return self._lose(
                "its client is closed while it still trains, and steers it no more; end a run "
                "inside the `with` of its client"
            )
        try:
            if self._catch_up():
                return self.ask(request)
        except InvalidArgument as error:
            if not self._waiting:
                raise  # a mistake of the script, which its next line is to know
            return self._lose(error)
        except _REFUSED as error:
            if not is_of_run and not self._waiting:
                raise
            return self._lose(error)
        except AgentError:
            pass  # away
        return self._keep(request)

    def _catch_up(self) -> bool:
        """Deliver a share of what waits; return whether none does, and a call may be tried."""
        if not self._presence.may_try():
            return False
        gives_up = time.monotonic() + self._presence.share()
        delivered = 0
        while self._waiting:
            # At least two for the one that comes, so that it gets less.
            if delivered > 1 and time.monotonic() > gives_up:
                return False
            self._deliver_first()
            delivered += 1
        self._presence.release(self, is_delivered=True)
        return True

    def _deliver_first(self) -> None:
        kind, data = self._waiting[0]
        self.ask(kind.FromString(data))
        self._waiting.popleft()

    def _keep(self, request: Request) -> Lost | None:
        assert self._hold is not None
        if len(self._waiting) >= self._hold.limit:
            end = pb.FinishRunRequest(run_id=self.run_id, outcome=pb.OUTCOME_TRUNCATED)
            self._waiting.append((type(end), end.SerializeToString()))
            log.warning(
                "%s ends: %d of its reports wait for the agent, which is still away, and no more "
                "are held; the training goes on without the agent",
                named(self.run_id),
                self._hold.limit,
            )
            return Lost()
        self._waiting.append((type(request), request.SerializeToString()))
        self._presence.hold(self)
        return None

    def _lose(self, error: AgentError | str) -> Lost:
        self._waiting.clear()
        self._presence.release(self, is_delivered=False)
        log.warning(
            "%s ends: %s; the training goes on without the agent", named(self.run_id), error
        )
        return Lost()

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end; a run that holds raises nothing, and waits a few seconds at most.

        What the script does next, such as saving its model, must not be lost.

        Raises:
            AgentError: what the agent answered, where the run does not hold.
        """
        if self._hold is None and not is_best_effort:
            self._call(request)
            return
        self._waiting.append((type(request), request.SerializeToString()))
        self.flush()

    def flush(self) -> None:
        """Deliver what still waits; say what could not be delivered, and drop it."""
        gives_up = time.monotonic() + self._presence.end_seconds
        why: object = "there is too much of it"
        while self._waiting:
            kind, data = self._waiting[0]
            try:
                self._call(kind.FromString(data), within=max(gives_up - time.monotonic(), 0.0))
            except AgentError as error:
                why = error
                break
            self._presence.answered()
            self._waiting.popleft()
            if time.monotonic() > gives_up:
                break
        undelivered = len(self._waiting)
        if undelivered:
            self._presence.end_seconds = max(gives_up - time.monotonic(), 0.0)
            lost = _lost(sum(kind is pb.ReportChunkRequest for kind, _ in self._waiting))
            self._waiting.clear()
            log.warning(
                "%s: %s: %s; the training and its model are unaffected, and the agent takes the "
                "run for abandoned when its lease ends",
                named(self.run_id),
                lost,
                why,
            )
        self._presence.release(self, is_delivered=not undelivered)

    def _call(self, request: Request, *, within: float | None = None) -> Any:
        method: Any = self._methods[type(request)]
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
            self._presence.slow(self._spent, total)


def check_action(request: Request, answer: Any, names: Set[str]) -> None:
    """Check that a run can go on under what was answered.

    Raises:
        Failed: it has no action, or one of another chunk or other hyperparameters.
    """
    if not names or not isinstance(request, _WITH_ACTION):
        return
    action = answer.run.action if isinstance(request, pb.GetRunRequest) else answer.action
    is_next = action.chunk_index >= 1
    if isinstance(request, pb.ReportChunkRequest):
        is_next = action.chunk_index == request.chunk_index + 1
    if not is_next or names != action.values.keys():
        raise Failed(
            f"the agent answered with an action that makes no sense: chunk {action.chunk_index}, "
            f"{sorted(action.values)[:10]}; the run has {sorted(names)[:10]}"
        )
