"""Certificates and keys from PEM files, validated when they are read.

gRPC accepts invalid PEM silently, and then refuses every connection.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent_service.domain.errors import invalid


def read_authority(path: Path, field: str) -> bytes:
    """Return a CA's certificates; raises InvalidArgument naming `field`."""
    import ssl  # slow to import, and most clients do not need it

    data = read_file(path, field)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise invalid(field, f"{path} has no certificates in PEM form") from None
    return data


def read_identity(certificate: Path, key: Path, field: str) -> tuple[bytes, bytes]:
    """Return a certificate chain and its private key.

    Raises:
        InvalidArgument: a file cannot be read, or the two do not match; names `field`.
    """
    import ssl

    chain = read_file(certificate, field)
    private = read_file(key, field.replace("certificate", "key"))
    try:
        # With a password callback, since OpenSSL would prompt for an encrypted key's password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "-")
    except (ssl.SSLError, ValueError) as error:
        why = str(getattr(error, "reason", None) or error).lower().replace("_", " ")
        raise invalid(
            field,
            f"{certificate} and {key} are not a certificate and its unencrypted key in PEM form "
            f"({why})",
        ) from None
    return chain, private


def weakness(certificate: Path, key: Path) -> str | None:
    """Return why clients will reject a server's certificate, whoever signed it; else None.

    By a handshake with itself in memory, since the standard library cannot read validity dates.
    """
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


def check_no_secret(path: Path, field: str) -> None:
    """Check that a secret's file exists; raises InvalidArgument without the path.

    Users may give the secret itself instead of its file's path, and messages end up in logs.
    """
    if not os.path.lexists(path):
        what = "there is no such file (not shown: it may be the secret itself)"
        raise invalid(field, f"{what}; give the path of its file")


def read_file(path: Path, field: str) -> bytes:
    """Return a file's content; raises InvalidArgument naming `field`."""
    if "." not in str(path) or "-----" in str(path):  # like Base64 or PEM
        check_no_secret(path, field)
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(field, f"{path} cannot be read: {error.strerror}") from None
