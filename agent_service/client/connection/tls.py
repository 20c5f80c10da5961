"""TLS settings of a client: PEM files of CA, certificate and key."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc

from agent_service.domain.checks import fields_by_name
from agent_service.domain.errors import invalid


@fields_by_name
@dataclass(frozen=True, kw_only=True)
class Tls:
    """TLS settings; raises InvalidArgument for a certificate without its key.

    The files are read when the client is created, and changed files again when a connection breaks.
    """

    ca: str | PathLike[str] | None = None
    """File of the CA of the service's certificate; None for the public CAs."""
    certificate: str | PathLike[str] | None = None
    """File of the client's certificate, if the service requires one (mutual TLS)."""
    key: str | PathLike[str] | None = None
    """File of the client's private key."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        for name, other in (("certificate", self.key), ("key", self.certificate)):
            if getattr(self, name) is None and other is not None:
                text = "is not set; a certificate needs its key, and a key its certificate"
                raise invalid(f"tls.{name}", text)

    @property
    def paths(self) -> list[Path]:
        """The files that are set."""
        return [Path(path) for path in (self.ca, self.certificate, self.key) if path is not None]

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials from the files' current content; raises InvalidArgument."""
        from agent_service.wire.pem import (  # only imported where TLS is used
            read_authority,
            read_identity,
        )

        ca = None if self.ca is None else read_authority(Path(self.ca), "tls.ca")
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(ca)
        chain, key = read_identity(Path(self.certificate), Path(self.key), "tls.certificate")
        return grpc.ssl_channel_credentials(ca, key, chain)
