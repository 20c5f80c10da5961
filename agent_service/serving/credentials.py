"""Server-side TLS: the server's certificate and the CA of its clients'."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import grpc

from agent_service.serving.config import ServingConfig
from agent_service.wire.pem import read_authority, read_identity, weakness
from agent_service.wire.reloading import Reloaded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """A server's TLS credentials, in PEM form."""

    chain: bytes
    """The certificate chain."""
    key: bytes
    """The private key."""
    signers: bytes | None
    """CA of client certificates; None does not ask for one."""


def server_identity(config: ServingConfig) -> Reloaded[Identity] | None:
    """Return the server's TLS credentials, reloaded when their files change; None without TLS.

    Raises:
        InvalidArgument: a file is invalid.
    """
    certificate, key, clients = config.tls_certificate, config.tls_key, config.tls_clients
    if certificate is None or key is None:
        return None

    def read() -> Identity:
        chain, private = read_identity(certificate, key, "tls_certificate")
        if (why := weakness(certificate, key)) is not None:
            log.warning("clients will reject the certificate %s: %s", certificate, why)
        signers = None if clients is None else read_authority(clients, "tls_clients")
        return Identity(chain, private, signers)

    return Reloaded([path for path in (certificate, key, clients) if path is not None], read)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return gRPC's credentials of an identity."""
    return grpc.ssl_server_credentials(
        [(identity.key, identity.chain)],
        identity.signers,
        require_client_auth=identity.signers is not None,
    )
