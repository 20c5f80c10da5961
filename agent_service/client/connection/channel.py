"""Channels to a service: plain, or with TLS and a token, whose files may be renewed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import grpc

from agent_service.client.connection.tls import Tls
from agent_service.wire.addresses import Address
from agent_service.wire.reloading import Reloaded

log = logging.getLogger(__name__)

Options = Sequence[tuple[str, Any]]
Metadata = tuple[tuple[str, str], ...]


def open_channel(
    address: Address,
    *,
    tls: Tls | None = None,
    token: str | PathLike[str] | None = None,
    options: Options = (),
) -> grpc.Channel:
    """Open a channel, which connects on first use; see `AgentClient`.

    A loopback address is never called through a proxy. `options` are gRPC's.
    """
    if address.is_loopback:
        options = [*options, ("grpc.enable_http_proxy", 0)]
    if tls is None and token is None:
        return grpc.insecure_channel(address.target, options)
    return SecuredChannel(address, tls=tls, token=token, options=options)


class SecuredChannel(grpc.Channel):
    """A channel that adds a token to calls and can reconnect with renewed certificates.

    gRPC's interceptors and call credentials would make a call several times as expensive, and the
    latter require TLS, which a service behind a mesh does not terminate itself.
    """

    def __init__(
        self,
        address: Address,
        *,
        tls: Tls | None,
        token: str | PathLike[str] | None,
        options: Options,
    ) -> None:
        """See `open_channel`."""
        self._address = address.target
        self._options = options
        self._tls = None if tls is None else Reloaded(tls.paths, tls.credentials)
        self._token = None if token is None else _token(Path(token))
        self._credentials = None if self._tls is None else self._tls.get()
        self._renewing = threading.Lock()
        self.channel = self._open()
        """The current channel."""
        if tls is None and not address.is_loopback:
            log.warning("the token is sent to %s unencrypted; give tls=, or --ca", address.target)

    def _open(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self._address, self._options)
        return grpc.secure_channel(self._address, self._credentials, self._options)

    @property
    def metadata(self) -> Metadata:
        """The metadata of each call."""
        return () if self._token is None else self._token.get()

    def renew(self) -> bool:
        """Switch to a new channel if the certificates changed; return whether they did."""
        if self._tls is None:
            return False
        with self._renewing:
            credentials = self._tls.get()
            is_new = credentials is not self._credentials
            if is_new:
                self._credentials = credentials
                # The old one is not closed: other threads may still have calls in flight.
                self.channel = self._open()
        return is_new

    def subscribe(self, callback: Callable[..., None], try_to_connect: bool = False) -> None:
        """See gRPC."""
        self.channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., None]) -> None:
        """See gRPC."""
        self.channel.unsubscribe(callback)

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """See gRPC."""
        return _MultiCallable(self, lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """See gRPC."""
        return _MultiCallable(self, lambda channel: channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """See gRPC."""
        return _MultiCallable(self, lambda channel: channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """See gRPC."""
        return _MultiCallable(self, lambda channel: channel.stream_stream(*arguments, **named))

    def close(self) -> None:
        """See gRPC."""
        self.channel.close()

    def __enter__(self) -> SecuredChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _MultiCallable:
    """gRPC's multi-callable of the current channel, called with the channel's metadata."""

    def __init__(self, secured: SecuredChannel, make: Callable[[grpc.Channel], Any]) -> None:
        self._secured = secured
        self._make = make
        self._made: tuple[grpc.Channel, Any] = (secured.channel, make(secured.channel))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._current()(*arguments, metadata=self._secured.metadata, **named)

    def _current(self) -> Any:
        channel, method = self._made
        if channel is not self._secured.channel:
            channel = self._secured.channel
            method = self._make(channel)
            self._made = (channel, method)
        return method


def _token(path: Path) -> Reloaded[Metadata]:
    from agent_service.wire.tokens import read_tokens  # only imported where a token is used

    def read() -> Metadata:
        return (("authorization", f"Bearer {read_tokens(path, 'token')[0]}"),)

    return Reloaded([path], read)
