"""The gRPC servers of one address: the current one, and older ones that drain.

Replacing a port's certificate while clients connect crashes gRPC (grpc/grpc#36693). So a renewed
certificate gets a new server on the same port, and the old one stops accepting connections; calls
on its open connections run to their end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import grpc

from agent_service.serving.credentials import Identity, server_credentials
from agent_service.serving.ports import ListenError, check_free
from agent_service.wire.addresses import Address, at
from agent_service.wire.reloading import Reloaded

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Interval at which certificate files are checked. A call that arrives just as the old server stops
may be cut, so files that are renewed together should cause one switch, not several."""
_TEN_YEARS = 10 * 365 * 24 * 3600.0
"""Grace of an old server's calls: effectively unlimited."""


class Listeners:
    """Serves one address by successive gRPC servers. For one event loop."""

    def __init__(
        self,
        make: Callable[[bool], grpc.aio.Server],
        identity: Reloaded[Identity] | None,
    ) -> None:
        """Prepare without listening.

        Args:
            make: returns a server with its handlers; its argument says whether it shares its port.
            identity: the service's TLS credentials, reloaded from files; None without TLS.
        """
        self._make = make
        self._identity = identity
        self._used = None if identity is None else identity.get()
        self._server: grpc.aio.Server | None = None
        self._old: dict[asyncio.Task[None], grpc.aio.Server] = {}
        """Draining servers, by the tasks that wait for their end."""
        self._watch: asyncio.Task[None] | None = None

    async def start(self, place: Address) -> int:
        """Listen, and return the port (0 takes any free one).

        Raises:
            ListenError: the address cannot be bound.
        """
        check_free(place, "--listen")
        try:
            port = await self._begin(place.target)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {place.target} of --listen") from error
        # Not for Unix sockets: a server that stops removes the file, by then its successor's.
        if self._identity is not None and place.places:
            target = at(place.places[0][0], port)
            self._watch = asyncio.create_task(self._watch_identity(self._identity, target))
        return port

    async def _begin(self, target: str) -> int:
        """Start a new server; on RuntimeError the previous one keeps listening."""
        server = self._make(self._used is not None)
        if self._used is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, server_credentials(self._used))
        await server.start()
        self._server = server
        return port

    async def _watch_identity(self, identity: Reloaded[Identity], target: str) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (found := identity.get()) != self._used:
                self._used = found
                await self._renew(target)

    async def _renew(self, target: str) -> None:
        old = self._server
        assert old is not None, "started before it is watched"
        try:
            await self._begin(target)
        except RuntimeError:
            log.error("cannot listen on %s with the renewed TLS files; restart the service", target)
            return
        ending = asyncio.create_task(old.stop(_TEN_YEARS))
        self._old[ending] = old
        ending.add_done_callback(self._old.pop)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, and give those in flight `grace` seconds to finish."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        servers = [server for server in (self._server, *self._old.values()) if server is not None]
        await asyncio.gather(*(server.stop(grace) for server in servers))
