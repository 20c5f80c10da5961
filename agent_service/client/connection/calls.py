"""Calls of a service over one channel, with deadlines, and retries while it is unreachable.

Every call of the agent service is idempotent, so every call may be retried.
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

from agent_service.client.connection.channel import SecuredChannel, open_channel
from agent_service.client.connection.diagnosis import hint, proxy_hint, tls_failure, unknown_host
from agent_service.client.connection.services import SERVICES, Service, identify, not_this_service
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
"""Minimum deadline, if less of the total time is left."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""First and longest pause between attempts in seconds: doubled each time, with jitter."""
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Applies while one of gRPC's own pings is in flight; its default is a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
)
"""Keepalive during calls, to detect a connection whose other end lost power, or that a middlebox
dropped silently."""
ROUND_ROBIN = (("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),)
"""Load balancing over replicas. Not for a single service: with it, calls without retries fail at
once while the service is away, instead of waiting for a connection."""
_JITTER = random.Random()
"""Not the global generator: a retry must not change a training's random numbers."""
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # Nothing here cancels calls, so this means that the server stopped during the call.
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
        """Open a channel to a service of `SERVICES`; see `AgentClient`.

        Replicas are called round-robin.
        """
        self._process = os.getpid()
        self._service = SERVICES[name]
        place = address_to_call(address, port=self._service.port)
        self._place, self._address = place, place.target
        self._budget = budget_seconds
        self._name = name
        self.is_closed = False
        self._has_answered = False
        """Whether a call ever succeeded, which proves that this is the right service."""
        self._is_tls = tls is not None
        self.channel = open_channel(
            place,
            tls=tls,
            token=token,
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                # Until the channel reconnects calls fail at once; the default backoff is 2 minutes.
                ("grpc.max_reconnect_backoff_ms", 2000),
                *(ROUND_ROBIN if place.is_of_replicas else ()),
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
        """Call a unary method, retrying within the budget while the service is unreachable.

        Args:
            method: the stub's method.
            request: its request message.
            within: limit of all attempts together, in seconds, if shorter than the budget.
            deadline: deadline of one attempt, in seconds.

        Raises:
            AgentError: the service's error; Unavailable when the budget is spent;
                FailedPrecondition if this is closed; or the process was forked.
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
                # gRPC's, if another thread closed the client meanwhile.
                if self.is_closed:
                    raise self._closed() from error
                raise
            # Jitter, so that callers that were asked to wait equally long come back one by one.
            time.sleep(min(asked + pause * _JITTER.uniform(0.5, 1.0), remaining))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _closed(self) -> FailedPrecondition:
        return FailedPrecondition(f"this client of the {self._name} is closed; create another")

    def wait_ready(self, timeout: float) -> None:
        """Wait until the service can be reached; raises Unavailable after `timeout` seconds."""
        try:
            grpc.channel_ready_future(self.channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise self._unreachable(timeout, self._why()) from None

    def stream(self, responses: Iterable[T]) -> Iterator[T]:
        """Yield the responses of a streaming call; raises as `call` does, without retries.

        Closing the iterator cancels the call.
        """
        self.check_process()
        try:
            yield from responses
        except grpc.RpcError as error:
            self._renew()
            raise self._translated(error, self._budget) from error
        finally:
            assert isinstance(responses, grpc.RpcContext)
            responses.cancel()

    def follow(self, connect: Callable[[], Iterable[T]]) -> Iterator[T]:
        """Yield the responses of an endless call, reconnecting whenever it is interrupted.

        Args:
            connect: makes the call, resuming after the responses yielded so far.

        Raises:
            AgentError: the service's error; never Unavailable.
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
        """Refuse to work in a forked process: it lacks gRPC's threads, so calls would hang.

        Raises:
            AgentError: the process was forked.
        """
        if os.getpid() != self._process:
            raise AgentError(
                f"this client of the {self._name} belongs to the process that created it; create "
                "another one in a forked process, such as a DataLoader's worker"
            )

    def close(self) -> None:
        """Close the channel."""
        self.is_closed = True
        self.channel.close()

    def _translated(self, error: grpc.RpcError, seconds: float) -> AgentError:
        # If the service itself answered Unavailable, its message says more than ours.
        if _is_away(error) and not is_of_service(error):
            return self._unreachable(seconds, details_of(error))
        if code_of(error) is grpc.StatusCode.UNIMPLEMENTED:
            return self.not_this_service()
        return from_rpc_error(error) or Failed(
            f"{self._name} at {self._address}: {code_of(error).name}: {details_of(error)}"
        )

    def not_this_service(self) -> AgentError:
        """Return the error for an answer that came from another service."""
        found = self._service if self._has_answered else self._found
        return not_this_service(found, self._address, self._service)

    @cached_property
    def _found(self) -> Service | None:
        """The service that answers here; cached, as a hanging one would delay each call."""
        return identify(self.channel)

    def _may_come_again(self, error: grpc.RpcError) -> bool:
        """Whether a call that failed may succeed if it is retried."""
        if not _is_away(error):
            return isinstance(from_rpc_error(error), Busy)
        return self._renew() or tls_failure(details_of(error), is_tls=self._is_tls) is None

    def _renew(self) -> bool:
        """Use renewed certificates from now on; return whether there are any."""
        return isinstance(self.channel, SecuredChannel) and self.channel.renew()

    def _why(self) -> str:
        """Return gRPC's reason why the connection cannot be established."""
        probe: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            probe(b"", timeout=1.0)
        except grpc.RpcError as error:
            return details_of(error)
        return ""

    def _unreachable(self, seconds: float, details: str) -> Unavailable:
        """Return the error for an unreachable service, with its likely cause."""
        why = tls_failure(details, is_tls=self._is_tls)
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
