"""A gRPC server with health, reflection, metrics and a graceful drain on signals.

Built separately from running it. Generic: knows none of our services.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from agent_service.domain.errors import Unavailable
from agent_service.serving.config import ServingConfig
from agent_service.serving.credentials import server_identity
from agent_service.serving.guard import Needs
from agent_service.serving.handlers import Handlers
from agent_service.serving.listeners import Listeners
from agent_service.serving.ports import check_free
from agent_service.serving.tracing import server_interceptors
from agent_service.wire.addresses import Address, address_to_listen, at

log = logging.getLogger(__name__)

GRACE_SECONDS = 4.0
"""Grace for calls in flight while draining; the server is closed within 5 s."""
ENDING_SECONDS = 1.0
"""Timeout for gRPC's own tasks of the calls that it cut."""

PINGS = (("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),)
"""Allows keepalive pings on idle connections every 10 s; gRPC's default is every 5 minutes."""


class Server:
    """A gRPC server with health and reflection, not yet started."""

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        services: Sequence[str],
        config: ServingConfig,
        limits: Mapping[str, int],
    ) -> None:
        """Prepare a server; servicers are added by `add`.

        Args:
            registry: registry for the call metrics.
            services: full names of the services that will be served.
            config: credentials and limits.
            limits: limits that the services enforce themselves, by name, for the metrics.

        Raises:
            InvalidArgument: a certificate, key or token file is invalid.
        """
        self._config = config
        self._services = services
        self._draining = asyncio.Event()
        self._others: set[asyncio.Task[Any]] = set()
        """The event loop's tasks that do not belong to calls."""
        self._handlers = Handlers(registry, config, limits)
        self._health = health.aio.HealthServicer()
        self.add(health_pb2_grpc.add_HealthServicer_to_server, self._health, needs=Needs.NOTHING)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self.add(
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
            reflection.aio.ReflectionServicer(names),
            needs=Needs.RUN_TOKEN,
        )
        self._listeners = Listeners(self._make, server_identity(config))

    def _make(self, shares_port: bool) -> grpc.aio.Server:
        """Return a gRPC server, not yet started, with all handlers added."""
        server = grpc.aio.server(
            # Only our own listeners may share a port; another process must fail, not join in.
            options=[("grpc.so_reuseport", int(shares_port)), *PINGS, *_limits(self._config)],
            interceptors=server_interceptors(self._config.traces),
        )
        self._handlers.add_to(server)
        return server

    def add(
        self,
        add_to_server: Callable[[Any, Any], None],
        servicer: object,
        *,
        needs: Needs,
        administration: Collection[str] = (),
    ) -> None:
        """Add a servicer by its generated `add_...Servicer_to_server`.

        Args:
            add_to_server: the generated function.
            servicer: implements the service's methods.
            needs: the token that calls must carry, if the config has tokens.
            administration: names of the methods that need the admin token.
        """
        add_to_server(servicer, self._handlers.registrar(needs, administration))

    async def start(self, address: str) -> int:
        """Listen on HOST:PORT (port 0 for any free one) or unix:PATH, and return the port.

        Raises:
            ListenError: the address cannot be bound.
        """
        place = address_to_listen(address, "listen")
        self._others = asyncio.all_tasks()
        port = await self._listeners.start(place)
        if self._config.missing and not place.is_private:
            missing = " and ".join(self._config.missing)
            log.warning("insecure: %s is open to other machines without %s", address, missing)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return port

    async def pause(self, seconds: float) -> None:
        """Sleep between two polls of a following stream.

        Raises:
            Unavailable: the server is draining, so that it does not wait for the stream.
        """
        try:
            await asyncio.wait_for(self._draining.wait(), seconds)
        except TimeoutError:
            return
        raise Unavailable("the service is draining; follow again from here when it is back")

    async def draining(self) -> None:
        """Wait until the server drains."""
        await self._draining.wait()

    async def drain(self) -> None:
        """Refuse new calls, let those in flight finish, and stop."""
        self._draining.set()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._listeners.stop(GRACE_SECONDS)
        # gRPC's tasks of calls that it cut; if the closing loop cancels them, they log tracebacks.
        if ending := asyncio.all_tasks() - self._others:
            await asyncio.wait(ending, timeout=ENDING_SECONDS)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


def _limits(config: ServingConfig) -> list[tuple[str, int]]:
    """Return the limits that gRPC's core enforces, as channel options."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # Between the two, gRPC refuses calls at random; so both are equal.
        ("grpc.max_metadata_size", config.max_header_bytes),
        ("grpc.absolute_max_metadata_size", config.max_header_bytes),
        # Per connection; further calls queue in the client.
        ("grpc.max_concurrent_streams", config.max_calls + config.max_streams),
    ]


async def serve_until_signal(server: Server, address: str, announce: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal exits immediately.

    Args:
        server: must have been created in the running event loop.
        address: HOST:PORT to listen on; port 0 takes any free one.
        announce: called with the port once the server listens.

    Raises:
        ListenError: the address cannot be bound.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            # Every answered call is already stored; nothing else was promised.
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    announce(await server.start(address))
    await stopping.wait()
    log.info("draining")
    await server.drain()


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of the process."""
    # Creation times would double the page and repeat process_start_time_seconds.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def metrics_page(registry: CollectorRegistry, *, host: str, port: int) -> Iterator[int]:
    """Serve a registry at http://HOST:PORT/metrics, and yield the port (0 takes any free one).

    Raises:
        ListenError: the port cannot be bound.
    """
    check_free(Address(at(host, port), ((host, port),)), "--metrics-port")
    page, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield page.server_port
    finally:
        page.shutdown()
        page.server_close()
        thread.join()
