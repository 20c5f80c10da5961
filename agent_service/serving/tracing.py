"""Optional OpenTelemetry tracing of calls by gRPC's instrumentation, exported as OTLP.

A traced training propagates its context, so its calls and the service's work share one trace.
Without the option nothing is imported and calls pay no overhead.
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
    """Export this process's spans to a collector within the context; flush them at its end.

    Args:
        service: service name of the spans, for example `agent`.
        url: the collector's OTLP/gRPC endpoint, for example http://localhost:4317; None disables
            tracing.

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
    """Return the interceptors that trace a server's calls; none without a collector."""
    if url is None:
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

    # Container checks call every few seconds; and the interceptor cannot handle health's stream.
    no_health = filters.negate(filters.health_check())
    return [aio_server_interceptor(filter_=no_health)]  # type: ignore[no-untyped-call]


def trace_clients(url: str | None) -> None:
    """Trace the calls of clients that this process creates from now on."""
    if url is not None:
        from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient

        GrpcInstrumentorClient().instrument()  # type: ignore[no-untyped-call]
