"""What every call of every service goes through: errors become statuses, and calls are counted.

Generic: knows the domain's errors and no service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, Counter, Histogram

from agent_service.domain.errors import AgentError
from agent_service.status import to_status

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Handlers:
    """Takes the handlers of services, as a gRPC server does, and adds them to one, wrapped.

    Not a gRPC interceptor: asyncio's are asked for a handler anew in each call, which costs a third
    of what the call itself does. The metrics have the names and labels that Go's gRPC middleware
    made conventional.
    """

    def __init__(self, server: grpc.aio.Server, registry: CollectorRegistry) -> None:
        """Add to `server`, and declare the metrics in `registry`."""
        self._server = server
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

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Leave these alone: generated code registers the same methods by name next."""

    def add_registered_method_handlers(
        self, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add a service's methods; the generated `add_...Servicer_to_server` calls this."""
        wrapped = {name: self._wrapped(service, name, h) for name, h in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, wrapped)

    def _wrapped(self, service: str, method: str, handler: Any) -> Any:
        shape = _shape(handler)
        kind = _KINDS[shape]
        labels = (kind, service, method)
        series = _Series(
            started=self._started.labels(*labels),
            seconds=self._seconds.labels(*labels),
            succeeded=self._handled.labels(*labels, "OK"),
            ended=lambda code: self._handled.labels(*labels, code),
        )
        behaviour = getattr(handler, shape)
        # gRPC's own health service streams by a coroutine that writes to its context.
        wrap = _streaming if inspect.isasyncgenfunction(behaviour) else _single
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(
            wrap(behaviour, series), handler.request_deserializer, handler.response_serializer
        )


_KINDS = {
    "unary_unary": "unary",
    "unary_stream": "server_stream",
    "stream_unary": "client_stream",
    "stream_stream": "bidi_stream",
}


@dataclass(frozen=True, slots=True)
class _Series:
    """A method's series, found once."""

    started: Counter
    seconds: Histogram
    succeeded: Counter
    ended: Callable[[str], Counter]
    """By status code."""

    def end(self, code: grpc.StatusCode, started: float) -> None:
        """Count a call that ends otherwise than with an answer."""
        self.ended(_camel(code.name)).inc()
        self.seconds.observe(time.perf_counter() - started)

    def succeed(self, started: float) -> None:
        """Count a call that answered all that it had."""
        self.succeeded.inc()
        self.seconds.observe(time.perf_counter() - started)


def _single(behaviour: Callable[..., Any], series: _Series) -> Any:
    async def call(request: Any, context: Context) -> Any:
        started = time.perf_counter()
        series.started.inc()
        try:
            response = await behaviour(request, context)
        except BaseException as error:
            series.end(_code(error, context), started)
            await _abort(context, error)
        series.succeed(started)
        return response

    return call


def _streaming(behaviour: Callable[..., Any], series: _Series) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        started = time.perf_counter()
        series.started.inc()
        try:
            async for response in behaviour(request, context):
                yield response
        except BaseException as error:
            series.end(_code(error, context), started)
            await _abort(context, error)
        series.succeed(started)

    return call


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
