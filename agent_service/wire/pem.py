"""Certificates and keys as PEM files, checked when they are read.

gRPC takes what is no PEM without a word, and refuses every connection later.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent_service.domain.errors import invalid


def read_authority(path: Path, field: str) -> bytes:
    """Return the certificates of those who sign; raises InvalidArgument naming `field`."""
    import ssl  # which most clients do not need, and takes time to import

    data = read_file(path, field)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise invalid(field, f"{path} holds no certificates in PEM form") from None
    return data


def read_identity(certificate: Path, key: Path, field: str) -> tuple[bytes, bytes]:
    """Return a certificate, with its chain, and its private key.

    Raises:
        InvalidArgument: naming `field`; a file cannot be read, or the two do not belong together.
    """
    import ssl

    chain = read_file(certificate, field)
    private = read_file(key, field.replace("certificate", "key"))
    try:
        # A key with a password would be asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "-")
    except (ssl.SSLError, ValueError) as error:
        why = str(getattr(error, "reason", None) or error).lower().replace("_", " ")
        raise invalid(
            field,
            f"{certificate} and {key} are no certificate and its key in PEM form, without a "
            f"password ({why})",
        ) from None
    return chain, private


def weakness(certificate: Path, key: Path) -> str | None:
    """Return why clients will not accept a server's certificate whoever signed it; else None.

    By a handshake with itself in memory: the standard library reads no dates of a certificate.
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
    """Check that a secret's file is there; raises InvalidArgument without the path.

    People give the secret itself where its file's path belongs, and logs keep what is printed.
    """
    if not os.path.lexists(path):
        what = "no file is there (not shown: it may be the secret itself)"
        raise invalid(field, f"{what}; give the path of its file")


def read_file(path: Path, field: str) -> bytes:
    """Return what a file holds; raises InvalidArgument naming `field`."""
    if "." not in str(path) or "-----" in str(path):  # as Base64, and PEM
        check_no_secret(path, field)
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(field, f"{path} cannot be read: {error.strerror}") from None
