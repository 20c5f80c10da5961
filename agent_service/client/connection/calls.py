"""One channel to a service, calls with deadlines, and retries while nobody answers.

Every call of the agent service is idempotent, so every one may be sent again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from os import PathLike
from typing import Any, TypeVar

import grpc

from agent_service.client.connection.answering import SERVICES, Service, found_at, not_this_service
from agent_service.client.connection.channel import SecuredChannel, open_channel
from agent_service.client.connection.handshakes import hint, proxy_hint, refusal, unknown_host
from agent_service.client.connection.tls import Tls
from agent_service.domain.errors import AgentError, Busy, Failed, FailedPrecondition, Unavailable
from agent_service.wire.addresses import address_to_call
from agent_service.wire.status import (
    code_of,
    details_of,
    from_rpc_error,
    is_of_service,
    retry_seconds,
)

T = TypeVar("T")

CALL_SECONDS = 30.0
"""Deadline of one attempt."""
LEAST_SECONDS = 0.1
"""The same where little time is left for it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between attempts: doubled each time, with jitter, up to the longest."""
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # While another ping of gRPC's own is on its way, that one's patience counts: else a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
)
"""During a call a silent connection is asked whether it lives, and given up where it does not
answer: one whose other end lost its power, or was forgotten on the way, says nothing by itself."""
IN_TURN = (("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),)
"""Of replicas each is called in turn. Not of a single service: while that is away, calls that are
not sent again would fail at once, where they otherwise wait for a connection."""
_JITTER = random.Random()
"""Not the module's own generator: a retry must not change what a training draws from it."""
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # Nothing here cancels a call: this is a server that stopped while the call was on its way.
    grpc.StatusCode.CANCELLED,
)


class Calls:
    """Calls one service, and raises the domain's errors instead of gRPC's. Thread-safe."""

    def __init__(
        self,
        address: str,
        *,
        budget_seconds: float,
        name: str,
        tls: Tls | None = None,
        token: str | PathLike[str] | None = None,
    ) -> None:
        """Open a channel, which connects when it is used.

        Args:
            address: HOST:PORT, [IPv6]:PORT or unix:PATH; of replicas `dns:///HOST:PORT`, whose
                addresses are called in turn.
            budget_seconds: for how long a call is tried while nobody answers.
            name: of the service, for the error that says so.
            tls: None speaks without TLS.
            token: file of the token that each call carries.

        Raises:
            InvalidArgument: the address is none, or a file is not what it should be.
        """
        self._process = os.getpid()
        self._service = SERVICES[name]
        place = address_to_call(address, port=self._service.port)
        self._place, self._address = place, place.target
        self._budget = budget_seconds
        self._name = name
        self.is_closed = False
        self._has_answered = False
        """Whether a call ever had an answer, which only the right service gives."""
        self._is_tls = tls is not None
        self.channel = open_channel(
            place,
            tls=tls,
            token=token,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                # Calls fail at once until the channel itself tries again: by default in 2 minutes.
                ("grpc.max_reconnect_backoff_ms", 2000),
                *(IN_TURN if place.is_of_replicas else ()),
                *KEEPALIVE,
            ],
        )

    def call(
        self,
        method: Callable[..., T],
        request: Any,
        *,
        within: float | None = None,
        deadline: float = CALL_SECONDS,
    ) -> T:
        """Call a unary method, again and again inside the budget while nobody answers.

        Args:
            method: of a stub.
            request: its message.
            within: seconds that all attempts may take together, also where the budget is longer.
            deadline: of one attempt, in seconds.

        Raises:
            AgentError: what the service answered, or Unavailable when the budget is spent; or this
                is a forked process, or FailedPrecondition where this is closed.
        """
        if self.is_closed:
            raise self._closed()
        self.check_process()
        began = time.monotonic()
        seconds = self._budget if within is None else min(self._budget, within)
        gives_up = began + seconds
        pause = FIRST_PAUSE
        while True:
            if within is not None:
                deadline = max(began + within - time.monotonic(), LEAST_SECONDS)
            try:
                answer = method(request, timeout=deadline)
                self._has_answered = True
                return answer
            except grpc.RpcError as error:
                remaining = gives_up - time.monotonic()
                asked = retry_seconds(error)
                if not self._may_come_again(error) or remaining <= asked:
                    raise self._translated(error, seconds) from error
            except ValueError as error:
                # gRPC's, where another thread closed the client meanwhile; it would end a training.
                if self.is_closed:
                    raise self._closed() from error
                raise
            # Those who were asked to wait equally long do not come back all at once.
            time.sleep(min(asked + pause * _JITTER.uniform(0.5, 1.0), remaining))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _closed(self) -> FailedPrecondition:
        return FailedPrecondition(f"this client of the {self._name} is closed; make another")

    def wait_ready(self, timeout: float) -> None:
        """Wait until the service can be reached; raises Unavailable after `timeout` seconds."""
        try:
            grpc.channel_ready_future(self.channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise self._unreachable(timeout, self._why()) from None

    def stream(self, responses: Iterable[T]) -> Iterator[T]:
        """Pass on the responses of a streaming call; raises as `call` does, without retries.

        Who stops reading and closes the iterator ends the call on the server too.
        """
        self.check_process()
        try:
            yield from responses
        except grpc.RpcError as error:
            self._renew()
            raise self._translated(error, self._budget) from error
        finally:
            assert isinstance(responses, grpc.RpcContext), "every streaming call is one"
            responses.cancel()

    def follow(self, connect: Callable[[], Iterable[T]]) -> Iterator[T]:
        """Pass on the responses of a call without end, made again whenever the service comes back.

        Args:
            connect: makes the call, to go on after what was passed on so far.

        Raises:
            AgentError: what the service answered; never Unavailable.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                for response in self.stream(connect()):
                    pause = FIRST_PAUSE
                    yield response
            except Unavailable:
                time.sleep(pause * _JITTER.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def check_process(self) -> None:
        """Refuse to work in a forked process, where gRPC's threads are not: a call would hang.

        Raises:
            AgentError: this is one.
        """
        if os.getpid() != self._process:
            raise AgentError(
                f"this client of the {self._name} belongs to the process that made it; a forked "
                "one, such as a DataLoader's worker, makes a client of its own"
            )

    def close(self) -> None:
        """Close the channel."""
        self.is_closed = True
        self.channel.close()

    def _translated(self, error: grpc.RpcError, seconds: float) -> AgentError:
        # Where the service itself answered that it cannot, its words say more than ours.
        if _is_away(error) and not is_of_service(error):
            return self._unreachable(seconds, details_of(error))
        if code_of(error) is grpc.StatusCode.UNIMPLEMENTED:
            return self.not_this_service()
        return from_rpc_error(error) or Failed(
            f"{self._name} at {self._address}: {code_of(error).name}: {details_of(error)}"
        )

    def not_this_service(self) -> AgentError:
        """Return the error for an answer that another service than the one asked for gave."""
        found = self._service if self._has_answered else self._found
        return not_this_service(found, self._address, self._service)

    @cached_property
    def _found(self) -> Service | None:
        """Which service answers here; asked once, since one that hangs would hold up each call."""
        return found_at(self.channel)

    def _may_come_again(self, error: grpc.RpcError) -> bool:
        """Whether a call that failed may succeed later, and is to be sent again."""
        if not _is_away(error):
            return isinstance(from_rpc_error(error), Busy)
        return self._renew() or refusal(details_of(error), is_tls=self._is_tls) is None

    def _renew(self) -> bool:
        """Go by renewed certificates from now on, if there are any; return whether there are."""
        return isinstance(self.channel, SecuredChannel) and self.channel.renew()

    def _why(self) -> str:
        """Return what gRPC says of a connection that does not come about."""
        probe: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            probe(b"", timeout=1.0)
        except grpc.RpcError as error:
            return details_of(error)
        return ""

    def _unreachable(self, seconds: float, details: str) -> Unavailable:
        """Return the error, the cause in it where TLS is the cause."""
        why = refusal(details, is_tls=self._is_tls)
        if why is not None:
            return Unavailable(f"no connection to the {self._name} at {self._address}: {why}")
        away = f"no {self._name} at {self._address} after {round(seconds, 2):g} s"
        host = unknown_host(details)
        if host is not None:
            why = f"the host {host!r} is not found; is its name right? There is {away}"
        else:
            start = f"`{self._name.replace(' ', '-')} serve`"
            why = f"{away}; is it running? {start}{hint(details, is_tls=self._is_tls)}"
        return Unavailable(f"{why}{proxy_hint(self._place)}")


def _is_away(error: grpc.RpcError) -> bool:
    return code_of(error) in _RETRIED
