"""The server's end of TLS: its certificate, and who signs its clients'."""

from __future__ import annotations

import logging

import grpc

from agent_service.pem import read_authority, read_identity, weakness
from agent_service.reloading import Reloaded
from agent_service.rpc.serving_config import ServingConfig

log = logging.getLogger(__name__)


def server_credentials(config: ServingConfig) -> grpc.ServerCredentials | None:
    """Return what a server listens with; None without TLS.

    The files are looked at in each handshake, so that what is renewed holds from then on.

    Raises:
        InvalidArgument: a file is not what it should be.
    """
    certificate, key, clients = config.tls_certificate, config.tls_key, config.tls_clients
    if certificate is None or key is None:
        return None

    def read() -> grpc.ServerCertificateConfiguration:
        chain, private = read_identity(certificate, key, "tls_certificate")
        if (why := weakness(certificate, key)) is not None:
            log.warning("clients will not accept the certificate %s: %s", certificate, why)
        signers = None if clients is None else read_authority(clients, "tls_clients")
        return grpc.ssl_server_certificate_configuration([(private, chain)], signers)

    paths = [path for path in (certificate, key, clients) if path is not None]
    renewed = Reloaded(paths, read)
    return grpc.dynamic_ssl_server_credentials(
        renewed.get(), renewed.get, require_client_authentication=clients is not None
    )
