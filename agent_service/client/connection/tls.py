"""How a client and a service prove who they are to one another: TLS, by PEM files."""

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
    """Speak TLS; raises InvalidArgument where a certificate comes without its key.

    The files are read when the client is made, and again, where they changed, once a connection
    breaks.
    """

    ca: str | PathLike[str] | None = None
    """File of who signs services' certificates; None for the usual public authorities."""
    certificate: str | PathLike[str] | None = None
    """File of the client's own certificate, for a service that asks for one (mutual TLS)."""
    key: str | PathLike[str] | None = None
    """File of its private key."""

    def __post_init__(self) -> None:
        """Check that certificate and key come together."""
        for name, other in (("certificate", self.key), ("key", self.certificate)):
            if getattr(self, name) is None and other is not None:
                text = "is not set; a certificate needs its key, and a key its certificate"
                raise invalid(f"tls.{name}", text)

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [Path(path) for path in (self.ca, self.certificate, self.key) if path is not None]

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what is in the files now; raises InvalidArgument where they are wrong."""
        from agent_service.wire.pem import (  # of scripts with TLS alone
            read_authority,
            read_identity,
        )

        ca = None if self.ca is None else read_authority(Path(self.ca), "tls.ca")
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(ca)
        chain, key = read_identity(Path(self.certificate), Path(self.key), "tls.certificate")
        return grpc.ssl_channel_credentials(ca, key, chain)
