"""Serving any gRPC service: build apart from run, health, reflection, metrics, drain on a signal.

Generic: knows no service of ours.
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
from agent_service.serving.listening import check_free
from agent_service.serving.tracing import server_interceptors
from agent_service.wire.addresses import Address, address_to_listen, at

log = logging.getLogger(__name__)

GRACE_SECONDS = 4.0
"""How long calls in flight may go on once the server drains; it is closed within 5 s."""
ENDING_SECONDS = 1.0
"""How long what is left of them is waited for."""

PINGS = (("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),)
"""A client may ask so often whether a silent connection lives: by default each 5 minutes."""


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
        """Make a server, to which servicers are added.

        Args:
            registry: where its call metrics go.
            services: full names of the services that it will serve.
            config: who may call, and how much.
            limits: those that the services keep themselves, by name, for the metrics.

        Raises:
            InvalidArgument: a certificate, key or token file is not what it should be.
        """
        self._config = config
        self._services = services
        self._draining = asyncio.Event()
        self._others: set[asyncio.Task[Any]] = set()
        """Tasks of the loop that are none of its calls."""
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
        """Return one of gRPC's servers, not yet started, with all that this one serves."""
        server = grpc.aio.server(
            # But for our own, a second server on a port in use must fail, not share it in silence.
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
        """Serve a servicer's methods too, by its generated `add_...Servicer_to_server`.

        Args:
            add_to_server: generated.
            servicer: whose methods.
            needs: what calls must carry, where the config has tokens.
            administration: the methods that need the admin token.
        """
        add_to_server(servicer, self._handlers.of(needs, administration))

    async def start(self, address: str) -> int:
        """Listen on HOST:PORT (port 0 for any free one) or unix:PATH, and return the port.

        Raises:
            ListenError: where the address cannot be taken.
        """
        place = address_to_listen(address, "listen")
        self._others = asyncio.all_tasks()
        port = await self._listeners.start(place)
        if self._config.missing and not place.is_private:
            lacks = " and ".join(self._config.missing)
            log.warning("insecure: %s is open to other machines without %s", address, lacks)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return port

    async def pause(self, seconds: float) -> None:
        """Wait, as a stream does that follows what happens.

        Raises:
            Unavailable: where the server drains, so that nobody waits for such a stream.
        """
        try:
            await asyncio.wait_for(self._draining.wait(), seconds)
        except TimeoutError:
            return
        raise Unavailable("the service drains; follow again from here when it is back")

    async def draining(self) -> None:
        """Wait until the server drains."""
        await self._draining.wait()

    async def drain(self) -> None:
        """Refuse new calls, let those in flight end, and stop."""
        self._draining.set()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._listeners.stop(GRACE_SECONDS)
        # gRPC's own, of calls that it has cut. Those that the loop's end cancels log a traceback.
        if ending := asyncio.all_tasks() - self._others:
            await asyncio.wait(ending, timeout=ENDING_SECONDS)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


def _limits(config: ServingConfig) -> list[tuple[str, int]]:
    """Return the limits that gRPC's core keeps, as its options."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # Above the first, calls are refused by chance, up to the second.
        ("grpc.max_metadata_size", config.max_header_bytes),
        ("grpc.absolute_max_metadata_size", config.max_header_bytes),
        # Of one connection; more wait in the client.
        ("grpc.max_concurrent_streams", config.max_calls + config.max_streams),
    ]


async def serve_until_signal(server: Server, address: str, announce: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second one ends the process at once.

    Args:
        server: made in the event loop that runs this, since it belongs to one.
        address: HOST:PORT to listen on; port 0 takes any free one.
        announce: told the port once it serves.

    Raises:
        ListenError: where the address cannot be taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            # What was answered is stored, and the rest was promised to nobody.
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    announce(await server.start(address))
    await stopping.wait()
    log.info("draining")
    await server.drain()


def process_registry() -> CollectorRegistry:
    """Return a registry that shows the process itself."""
    # Creation times would double the page and tell what process_start_time_seconds tells.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def metrics_page(registry: CollectorRegistry, *, host: str, port: int) -> Iterator[int]:
    """Show a registry to Prometheus at http://HOST:PORT/metrics; gives the port, any for 0.

    Raises:
        ListenError: where the port cannot be taken.
    """
    check_free(Address(at(host, port), ((host, port),)), "--metrics-port")
    page, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield page.server_port
    finally:
        page.shutdown()
        page.server_close()
        thread.join()
