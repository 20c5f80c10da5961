"""What every call of every service goes through: errors become statuses, and calls are counted.

Generic: knows the domain's errors and no service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, Counter, Histogram

from agent_service.domain.errors import AgentError, ResourceExhausted, invalid
from agent_service.serving.config import ServingConfig
from agent_service.serving.guard import Guard, Needs
from agent_service.serving.limits import LimitMetrics, Room
from agent_service.wire.status import to_status

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Handlers:
    """Takes the handlers of services, as a gRPC server does, and adds them to servers, wrapped.

    Not a gRPC interceptor: asyncio's are asked for a handler anew in each call, which costs a third
    of what the call itself does. Requests come here as bytes, so that a call is refused before it
    is decoded, and what cannot be decoded is the caller's error, not ours. The metrics have the
    names and labels that Go's gRPC middleware made conventional.
    """

    def __init__(
        self, registry: CollectorRegistry, config: ServingConfig, limits: Mapping[str, int]
    ) -> None:
        """Declare the metrics in `registry`.

        Args:
            registry: of the metrics.
            config: who may call, and how much.
            limits: what else may raise ResourceExhausted, by name.

        Raises:
            InvalidArgument: a file of tokens is not what it should be.
        """
        self._services: dict[str, dict[str, Any]] = {}
        """Wrapped handlers by method, by service."""
        self._guard = Guard(config)
        self._calls = Room("calls", config.max_calls)
        self._streams = Room("streams", config.max_streams)
        ours = {name: getattr(config, f"max_{name}") for name in _LIMITS}
        self._limits = LimitMetrics(registry, {**ours, **limits})
        self._started = Counter(
            "grpc_server_started_total", "Calls begun.", _LABELS, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "Calls ended, by status code.",
            (*_LABELS, "grpc_code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from a call's begin to its end.",
            _LABELS,
            unit="seconds",
            buckets=_SECONDS,
            registry=registry,
        )

    def of(self, needs: Needs, administration: Collection[str]) -> Registrar:
        """Return what generated code adds a service's methods to.

        Args:
            needs: what its calls must carry, where there are tokens.
            administration: names of its methods that need the admin token.
        """

        def added(service: str, handlers: Mapping[str, Any]) -> None:
            self._services[service] = {
                name: self._wrapped(
                    service, name, h, Needs.ADMIN_TOKEN if name in administration else needs
                )
                for name, h in handlers.items()
            }

        return Registrar(added)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add all to a server that was just made, which is not yet started."""
        for service, wrapped in self._services.items():
            generic = grpc.method_handlers_generic_handler(service, wrapped)
            server.add_generic_rpc_handlers((generic,))
            server.add_registered_method_handlers(service, wrapped)

    def _wrapped(self, service: str, method: str, handler: Any, needs: Needs) -> Any:
        shape = _shape(handler)
        kind = _KINDS[shape]
        labels = (kind, service, method)
        behaviour = getattr(handler, shape)
        # Messages of a stream are decoded one by one as they are read, after the first check.
        decode = handler.request_deserializer
        rpc = _Rpc(
            started=self._started.labels(*labels),
            seconds=self._seconds.labels(*labels),
            succeeded=self._handled.labels(*labels, "OK"),
            ended=lambda code: self._handled.labels(*labels, code),
            decode=_as_it_is if handler.request_streaming else decode,
            check=self._check(needs, method),
            room=self._room(kind, needs),
            refused=self._limits.refused,
        )
        # gRPC's own health service streams by a coroutine that writes to its context.
        wrap = _streaming if inspect.isasyncgenfunction(behaviour) else _single
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(
            wrap(behaviour, rpc),
            decode if handler.request_streaming else None,
            handler.response_serializer,
        )

    def _room(self, kind: str, needs: Needs) -> Room:
        if kind != "unary":
            return self._streams
        # Whoever looks after the service must hear from it however busy it is.
        return _BOUNDLESS if needs is Needs.NOTHING else self._calls

    def _check(self, needs: Needs, method: str) -> Callable[[Context], None] | None:
        if self._guard.is_open or needs is Needs.NOTHING:
            return None
        return lambda context: self._guard.check(context, needs, method)


class Registrar:
    """What a generated `add_...Servicer_to_server` takes for a server."""

    def __init__(self, added: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Tell `added` each service's name, and its handlers by method."""
        self._added = added

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Leave these alone: generated code registers the same methods by name next."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service's methods."""
        self._added(service, handlers)


_LIMITS = ("calls", "streams", "message_bytes", "header_bytes")
_BOUNDLESS = Room("calls", sys.maxsize)


def _as_it_is(request: Any) -> Any:
    return request


_KINDS = {
    "unary_unary": "unary",
    "unary_stream": "server_stream",
    "stream_unary": "client_stream",
    "stream_stream": "bidi_stream",
}


@dataclass(frozen=True, slots=True)
class _Rpc:
    """A method's metrics and limits, found once."""

    started: Counter
    seconds: Histogram
    succeeded: Counter
    ended: Callable[[str], Counter]
    """By status code."""
    decode: Callable[[Any], Any]
    check: Callable[[Context], None] | None
    """Whether a caller may call; None where everybody may."""
    room: Room
    refused: Counter
    """Calls that a limit refused, by limit."""

    def end(self, error: BaseException, context: Context, started: float) -> None:
        """Count a call that ends otherwise than with an answer."""
        self.ended(_camel(_code(error, context).name)).inc()
        if isinstance(error, ResourceExhausted) and error.limit:
            self.refused.labels(error.limit).inc()
        self.seconds.observe(time.perf_counter() - started)


def _single(behaviour: Callable[..., Any], rpc: _Rpc) -> Any:
    async def call(request: Any, context: Context) -> Any:
        started = time.perf_counter()
        rpc.started.inc()
        try:
            if rpc.check is not None:
                rpc.check(context)
            rpc.room.enter()
            try:
                response = await behaviour(rpc.decode(request), context)
            finally:
                rpc.room.leave()
        except BaseException as error:
            told = _translated(error)
            rpc.end(told, context, started)
            await _abort(context, told)
        rpc.succeeded.inc()
        rpc.seconds.observe(time.perf_counter() - started)
        return response

    return call


def _streaming(behaviour: Callable[..., Any], rpc: _Rpc) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        started = time.perf_counter()
        rpc.started.inc()
        try:
            if rpc.check is not None:
                rpc.check(context)
            rpc.room.enter()
            try:
                async for response in behaviour(rpc.decode(request), context):
                    yield response
            finally:
                rpc.room.leave()
        except BaseException as error:
            told = _translated(error)
            rpc.end(told, context, started)
            await _abort(context, told)
        rpc.succeeded.inc()
        rpc.seconds.observe(time.perf_counter() - started)

    return call


def _translated(error: BaseException) -> BaseException:
    """Return what an error is to the caller."""
    if isinstance(error, DecodeError):
        return invalid("request", "its bytes are no message of this method's type")
    return error


async def _abort(context: Context, error: BaseException) -> NoReturn:
    """End the call; what is no domain error is ours, so it is logged whole and told as INTERNAL."""
    if isinstance(error, AgentError):
        status = rpc_status.to_status(to_status(error))
        context.set_trailing_metadata(status.trailing_metadata)
        await context.abort(status.code, status.details)
    if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
        raise error
    log.error("call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the service's log")
    raise asyncio.InvalidStateError("abort returned")


def _shape(handler: Any) -> str:
    request = "stream" if handler.request_streaming else "unary"
    return f"{request}_{'stream' if handler.response_streaming else 'unary'}"


def _code(error: BaseException, context: Context) -> grpc.StatusCode:
    """Return the status code that `_abort` ends the call with, so that it is counted before."""
    if isinstance(error, AgentError):
        code: grpc.StatusCode = rpc_status.to_status(to_status(error)).code
        return code
    if isinstance(error, grpc.aio.AbortError):
        number: Any = context.code()
        numbers: dict[Any, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
        return numbers[number]
    if isinstance(error, Exception):
        return grpc.StatusCode.INTERNAL
    return grpc.StatusCode.CANCELLED


def _camel(name: str) -> str:
    """Return a code as Go's middleware writes it: NOT_FOUND as NotFound, OK as OK."""
    return name if name == "OK" else name.title().replace("_", "")
