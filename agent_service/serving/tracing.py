"""OpenTelemetry traces of calls, sent as OTLP; by gRPC's own instrumentation, where asked for.

A training that traces itself carries its trace on: calls and what the service does in them have one
trace. Without the option nothing of this is imported, and nothing is added to a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from agent_service.domain.errors import AgentError
from agent_service.wire.addresses import is_loopback


@contextmanager
def tracing(service: str, url: str | None) -> Iterator[None]:
    """Send this process's spans to a collector while the context lasts; what is left, at its end.

    Args:
        service: whose spans they are, as `agent`.
        url: of the collector's OTLP over gRPC, as http://localhost:4317; None traces nothing.

    Raises:
        AgentError: the extra `tracing` is not installed.
    """
    if url is None:
        yield
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise AgentError(
            f"traces need `pip install 'reinforced-regularization[tracing]'`: {error}"
        ) from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    is_here = is_loopback(urlsplit(url).hostname or "")
    exporter = OTLPSpanExporter(
        endpoint=url,
        insecure=url.startswith("http://"),
        channel_options=(("grpc.enable_http_proxy", 0),) if is_here else None,  # type: ignore[arg-type]
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def server_interceptors(url: str | None) -> list[Any]:
    """Return what traces a server's calls; nothing without a collector."""
    if url is None:
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

    # Container checks ask every few seconds; and its stream is none that the interceptor knows.
    chosen = filters.negate(filters.health_check())
    return [aio_server_interceptor(filter_=chosen)]  # type: ignore[no-untyped-call]


def trace_clients(url: str | None) -> None:
    """Trace the calls of clients that are made from now on in this process."""
    if url is not None:
        from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient

        GrpcInstrumentorClient().instrument()  # type: ignore[no-untyped-call]
