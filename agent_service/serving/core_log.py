"""What gRPC's core says about TLS handshakes, as lines of our log.

The core writes to the standard error of the process and nowhere else, and what refuses a client's
certificate is told there alone: the client sees a closed connection.
"""

from __future__ import annotations

import os
import re
import sys
import threading

from agent_service.serving.refusals import RefusalLog

_STDERR = 2
_CORE = re.compile(rb"[IWE]\d{4} [\d:.]+ +\d+ (\S+?):\d+\] (.*)")
_HANDSHAKE = re.compile(rb"Handshake failed with.*OPENSSL_internal:(\w+)(?:: (.*))?")
_WORDS = {
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client shows no certificate",
    b"WRONG_VERSION_NUMBER": "the client speaks no TLS",
    b"HTTP_REQUEST": "the client speaks no TLS",
}


def log_handshakes() -> None:
    """Log failed handshakes from now on; all else that comes to standard error goes there.

    To be called before logging is started and gRPC imported. Python's own standard error goes its
    way without a detour.
    """
    read, write = os.pipe()
    straight = os.dup(_STDERR)
    sys.stderr.flush()
    sys.stderr = open(os.dup(straight), "w", buffering=1)  # noqa: SIM115  # as long as the process
    os.dup2(write, _STDERR)
    os.close(write)
    threading.Thread(target=_relay, args=(read, straight), name="core-log", daemon=True).start()
    verbosity = os.environ.get("GRPC_VERBOSITY", "NONE")
    os.environ["GRPC_VERBOSITY"] = "INFO"
    import grpc

    # With the first channel the core reads its settings from the environment, once.
    grpc.insecure_channel("localhost:1").close()
    # Processes that this one starts have connections of their own to tell of.
    os.environ["GRPC_VERBOSITY"] = verbosity


def _relay(read: int, straight: int) -> None:
    refusals = RefusalLog()
    with os.fdopen(read, "rb") as lines:
        for line in lines:
            core = _CORE.match(line)
            if core is None:
                os.write(straight, line)
            elif (failed := _HANDSHAKE.search(core[2])) is not None:
                told = _told(failed[1], failed[2] or b"")
                refusals.tell(told, f"refused a connection: {told}")


def _told(cause: bytes, detail: bytes) -> str:
    """Return in words what the core says."""
    if cause == b"CERTIFICATE_VERIFY_FAILED":
        return f"the client's certificate is not accepted ({detail.decode(errors='replace')})"
    return _WORDS.get(cause) or cause.decode().lower().replace("_", " ")
