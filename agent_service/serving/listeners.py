"""gRPC's servers of one address: the one that listens, and older ones that drain.

gRPC crashes where the certificate of a port is exchanged while clients connect (grpc/grpc#36693).
So a renewed one comes with a listener of its own, on the same port beside the old one, which then
takes no more connections. Calls of connections that are open go on to their end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import grpc

from agent_service.serving.credentials import Identity, server_credentials
from agent_service.serving.listening import ListenError, check_free
from agent_service.wire.addresses import Address, at
from agent_service.wire.reloading import Reloaded

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often the files of certificates are looked at. A call that comes just as the old listener
stops may be cut: once a renewal, not once a file."""
_TO_THEIR_END = 10 * 365 * 24 * 3600.0
"""Seconds that calls of an old listener may take."""


class Listeners:
    """Serves one address, by one gRPC server after another. For one event loop."""

    def __init__(
        self,
        make: Callable[[bool], grpc.aio.Server],
        identity: Reloaded[Identity] | None,
    ) -> None:
        """Listen nowhere yet.

        Args:
            make: returns a server with all that it serves; told whether others share its port.
            identity: of the service, as files have it; None without TLS.
        """
        self._make = make
        self._identity = identity
        self._used = None if identity is None else identity.get()
        self._server: grpc.aio.Server | None = None
        self._old: dict[asyncio.Task[None], grpc.aio.Server] = {}
        """Servers that drain, by what waits for their end."""
        self._watch: asyncio.Task[None] | None = None

    async def start(self, place: Address) -> int:
        """Listen, and return the port, any free one for 0.

        Raises:
            ListenError: where the address cannot be taken.
        """
        check_free(place, "--listen")
        try:
            port = await self._begin(place.target)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {place.target} of --listen") from error
        # Of a Unix socket, whoever stops to listen takes the file away that is another's by then.
        if self._identity is not None and place.places:
            target = at(place.places[0][0], port)
            self._watch = asyncio.create_task(self._take_up_renewed(self._identity, target))
        return port

    async def _begin(self, target: str) -> int:
        """Listen by a new server; raises RuntimeError, and the one before listens on."""
        server = self._make(self._used is not None)
        if self._used is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, server_credentials(self._used))
        await server.start()
        self._server = server
        return port

    async def _take_up_renewed(self, identity: Reloaded[Identity], target: str) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (found := identity.get()) != self._used:
                self._used = found
                await self._renew(target)

    async def _renew(self, target: str) -> None:
        old = self._server
        assert old is not None, "a watched address is listened on"
        try:
            await self._begin(target)
        except RuntimeError:
            log.error("cannot listen on %s with what was renewed; restart the service", target)
            return
        ending = asyncio.create_task(old.stop(_TO_THEIR_END))
        self._old[ending] = old
        ending.add_done_callback(self._old.pop)

    async def stop(self, grace: float) -> None:
        """Take no more calls, and let those in flight go on for so many seconds."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        servers = [server for server in (self._server, *self._old.values()) if server is not None]
        await asyncio.gather(*(server.stop(grace) for server in servers))
