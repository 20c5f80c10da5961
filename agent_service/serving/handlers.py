"""Wrappers around all RPC handlers: tokens, limits, errors to statuses, call metrics.

Generic: knows the domain's errors and none of our services.
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
from agent_service.serving.limits import CallLimiter, LimitMetrics
from agent_service.wire.status import to_status

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Handlers:
    """Collects the handlers of services, wraps them and adds them to gRPC servers.

    Not a gRPC interceptor: with asyncio an interceptor looks up the handler in every call, which
    adds a third to the call's cost. Requests arrive as bytes, so that a call can be refused before
    it is decoded, and malformed bytes are the caller's error. The metrics use the conventional
    names and labels of Go's gRPC middleware.
    """

    def __init__(
        self, registry: CollectorRegistry, config: ServingConfig, limits: Mapping[str, int]
    ) -> None:
        """Declare the metrics in `registry`.

        Args:
            registry: registry for the metrics.
            config: tokens and limits of calls.
            limits: further limits that may raise ResourceExhausted, by name.

        Raises:
            InvalidArgument: a token file is invalid.
        """
        self._services: dict[str, dict[str, Any]] = {}
        """Wrapped handlers by service and method."""
        self._guard = Guard(config)
        self._calls = CallLimiter("calls", config.max_calls)
        self._streams = CallLimiter("streams", config.max_streams)
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
            "Time from a call's start to its end.",
            _LABELS,
            unit="seconds",
            buckets=_SECONDS,
            registry=registry,
        )

    def registrar(self, needs: Needs, administration: Collection[str]) -> Registrar:
        """Return the object to which generated code adds a service's methods.

        Args:
            needs: the token that calls must carry, if there are tokens.
            administration: names of the methods that need the admin token.
        """

        def register(service: str, handlers: Mapping[str, Any]) -> None:
            self._services[service] = {
                name: self._wrapped(
                    service, name, h, Needs.ADMIN_TOKEN if name in administration else needs
                )
                for name, h in handlers.items()
            }

        return Registrar(register)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add all handlers to a server that is not yet started."""
        for service, wrapped in self._services.items():
            generic = grpc.method_handlers_generic_handler(service, wrapped)
            server.add_generic_rpc_handlers((generic,))
            server.add_registered_method_handlers(service, wrapped)

    def _wrapped(self, service: str, method: str, handler: Any, needs: Needs) -> Any:
        shape = _shape(handler)
        kind = _KINDS[shape]
        labels = (kind, service, method)
        behaviour = getattr(handler, shape)
        # Messages of a request stream are decoded as they are read, after the token check.
        decode = handler.request_deserializer
        rpc = _Rpc(
            started=self._started.labels(*labels),
            seconds=self._seconds.labels(*labels),
            succeeded=self._handled.labels(*labels, "OK"),
            ended=lambda code: self._handled.labels(*labels, code),
            decode=_unchanged if handler.request_streaming else decode,
            check=self._check(needs, method),
            limiter=self._limiter(kind, needs),
            refused=self._limits.refused,
        )
        # gRPC's health service streams from a coroutine that writes to its context.
        wrap = _streaming if inspect.isasyncgenfunction(behaviour) else _single
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(
            wrap(behaviour, rpc),
            decode if handler.request_streaming else None,
            handler.response_serializer,
        )

    def _limiter(self, kind: str, needs: Needs) -> CallLimiter:
        if kind != "unary":
            return self._streams
        # Health checks must be answered however busy the service is.
        return _UNLIMITED if needs is Needs.NOTHING else self._calls

    def _check(self, needs: Needs, method: str) -> Callable[[Context], None] | None:
        if self._guard.is_open or needs is Needs.NOTHING:
            return None
        return lambda context: self._guard.check(context, needs, method)


class Registrar:
    """Stands in for the server in a generated `add_...Servicer_to_server`."""

    def __init__(self, register: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Pass each service's name, and its handlers by method, to `register`."""
        self._register = register

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore these: generated code registers the same methods by name next."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register a service's methods."""
        self._register(service, handlers)


_LIMITS = ("calls", "streams", "message_bytes", "header_bytes")
_UNLIMITED = CallLimiter("calls", sys.maxsize)


def _unchanged(request: Any) -> Any:
    return request


_KINDS = {
    "unary_unary": "unary",
    "unary_stream": "server_stream",
    "stream_unary": "client_stream",
    "stream_stream": "bidi_stream",
}


@dataclass(frozen=True, slots=True)
class _Rpc:
    """A method's metrics and limits, looked up once."""

    started: Counter
    seconds: Histogram
    succeeded: Counter
    ended: Callable[[str], Counter]
    """By status code."""
    decode: Callable[[Any], Any]
    check: Callable[[Context], None] | None
    """Checks the caller's token; None if the method is open to everybody."""
    limiter: CallLimiter
    refused: Counter
    """Calls refused by a limit, labelled by limit."""

    def count_failure(self, error: BaseException, context: Context, started: float) -> None:
        """Count a call that ends with an error."""
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
            with rpc.limiter:
                response = await behaviour(rpc.decode(request), context)
        except BaseException as error:
            reported = _reported(error)
            rpc.count_failure(reported, context, started)
            await _abort(context, reported)
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
            with rpc.limiter:
                async for response in behaviour(rpc.decode(request), context):
                    yield response
        except BaseException as error:
            reported = _reported(error)
            rpc.count_failure(reported, context, started)
            await _abort(context, reported)
        rpc.succeeded.inc()
        rpc.seconds.observe(time.perf_counter() - started)

    return call


def _reported(error: BaseException) -> BaseException:
    """Return the error as reported to the caller."""
    if isinstance(error, DecodeError):
        return invalid("request", "does not parse as this method's request message")
    return error


async def _abort(context: Context, error: BaseException) -> NoReturn:
    """Abort the call; any error outside the domain is logged in full and reported as INTERNAL."""
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
    """Return the status code with which `_abort` will end the call, so it can be counted first."""
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
    """Return a code as Go's middleware spells it: NOT_FOUND as NotFound, OK as OK."""
    return name if name == "OK" else name.title().replace("_", "")
