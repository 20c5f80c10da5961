"""The server's end of TLS: its certificate, and who signs its clients'."""

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
    """What a server listens with, in PEM form."""

    chain: bytes
    """Its certificate, with those of who signed it."""
    key: bytes
    signers: bytes | None
    """Who signs the certificates of clients; None asks for none."""


def server_identity(config: ServingConfig) -> Reloaded[Identity] | None:
    """Return what a server listens with, as its files have it; None without TLS.

    Raises:
        InvalidArgument: a file is not what it should be.
    """
    certificate, key, clients = config.tls_certificate, config.tls_key, config.tls_clients
    if certificate is None or key is None:
        return None

    def read() -> Identity:
        chain, private = read_identity(certificate, key, "tls_certificate")
        if (why := weakness(certificate, key)) is not None:
            log.warning("clients will not accept the certificate %s: %s", certificate, why)
        signers = None if clients is None else read_authority(clients, "tls_clients")
        return Identity(chain, private, signers)

    return Reloaded([path for path in (certificate, key, clients) if path is not None], read)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return an identity as gRPC takes it."""
    return grpc.ssl_server_credentials(
        [(identity.key, identity.chain)],
        identity.signers,
        require_client_auth=identity.signers is not None,
    )
