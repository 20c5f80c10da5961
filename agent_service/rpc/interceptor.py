"""What every call of every service goes through: errors become statuses, and calls are counted.

Generic: knows the domain's errors and no service.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry, Counter, Histogram

from agent_service.domain.errors import AgentError
from agent_service.status import to_status

log = logging.getLogger(__name__)

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call that raised a domain error with its status, and measures every call.

    The metrics have the names and labels that Go's gRPC middleware made conventional.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declare the metrics in `registry`."""
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
            buckets=_SECONDS,
            registry=registry,
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the call's handler, wrapped; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = str(handler_call_details.method).split("/")
        incoming = "client_stream" if handler.request_streaming else ""
        outgoing = "server_stream" if handler.response_streaming else ""
        kind = {"": "unary", "client_streamserver_stream": "bidi_stream"}.get(
            incoming + outgoing, incoming or outgoing
        )
        labels = (kind, service, method)
        if handler.response_streaming:
            wrapped: Any = self._streaming(_behaviour(handler), labels)
        else:
            wrapped = self._single(_behaviour(handler), labels)
        make = getattr(grpc, f"{_shape(handler)}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, behaviour: Callable[..., Any], labels: tuple[str, ...]) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = self._begin(labels)
            try:
                return await behaviour(request, context)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._end(labels, context, started)

        return call

    def _streaming(self, behaviour: Callable[..., Any], labels: tuple[str, ...]) -> Any:
        async def call(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            started = self._begin(labels)
            try:
                async for response in behaviour(request, context):
                    yield response
            except Exception as error:
                await _abort(context, error)
            finally:
                self._end(labels, context, started)

        return call

    def _begin(self, labels: tuple[str, ...]) -> float:
        self._started.labels(*labels).inc()
        return time.perf_counter()

    def _end(
        self,
        labels: tuple[str, ...],
        context: grpc.aio.ServicerContext[Any, Any],
        started: float,
    ) -> None:
        # What ends the call here is asked too: the context knows of a cancel only afterwards.
        is_cancelled = isinstance(sys.exception(), (asyncio.CancelledError, GeneratorExit))
        is_cancelled = is_cancelled or context.cancelled()
        code = grpc.StatusCode.CANCELLED if is_cancelled else _code(context)
        self._handled.labels(*labels, _camel(code.name)).inc()
        self._seconds.labels(*labels).observe(time.perf_counter() - started)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End the call; what is no domain error is ours, so it is logged whole and told as INTERNAL."""
    if isinstance(error, AgentError):
        status = rpc_status.to_status(to_status(error))
        context.set_trailing_metadata(status.trailing_metadata)
        await context.abort(status.code, status.details)
    if isinstance(error, grpc.aio.AbortError):
        raise error
    log.error("call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the service's log")
    raise asyncio.InvalidStateError("abort returned")


def _shape(handler: Any) -> str:
    request = "stream" if handler.request_streaming else "unary"
    return f"{request}_{'stream' if handler.response_streaming else 'unary'}"


def _behaviour(handler: Any) -> Callable[..., Any]:
    behaviour: Callable[..., Any] = getattr(handler, _shape(handler))
    return behaviour


def _code(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((c for c in grpc.StatusCode if c.value[0] == code), grpc.StatusCode.OK)


def _camel(name: str) -> str:
    """Return a code as Go's middleware writes it: NOT_FOUND as NotFound, OK as OK."""
    return name if name == "OK" else name.title().replace("_", "")
