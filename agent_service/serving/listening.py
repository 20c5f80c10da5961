"""Why an address cannot be listened on, told before gRPC or the metrics page tries.

gRPC gives no reason, takes a Unix socket away from who listens on it, and is content with one of a
name's numbers where the port of another is taken.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from agent_service.domain.errors import AgentError
from agent_service.wire.addresses import Address


class ListenError(AgentError):
    """The address cannot be listened on; the message says which and why."""


def check_free(address: Address, option: str) -> None:
    """Return where an address can be listened on, as far as can be seen.

    Args:
        address: with port 0 any free one will do.
        option: what gave it, for the message.

    Raises:
        ListenError: it is taken, or none of this machine's.
    """
    try:
        _try(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "it is taken; is the service running already?"
        raise ListenError(f"cannot listen on {address.target} of {option}: {reason}") from error


def _try(address: Address) -> None:
    if not address.places:
        _try_socket(address.target.removeprefix("unix:"))
        return
    host, port = address.places[0]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failures = [error for family, *_, place in found if (error := _bound(family, place))]
    taken = [error for error in failures if error.errno == errno.EADDRINUSE]
    # One of a name's numbers may be none of this machine's, as ::1 where there is no IPv6.
    if taken or len(failures) == len(found):
        raise (taken or failures)[0]


def _bound(family: int, place: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place)
    except OSError as error:
        return error
    return None


def _try_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except ConnectionRefusedError:
            return  # left by a service that was killed; gRPC replaces it
        except FileNotFoundError:
            os.stat(Path(path).parent)
            return
    raise OSError(errno.EADDRINUSE, "taken")
