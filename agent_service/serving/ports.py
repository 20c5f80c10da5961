"""Checks that an address can be bound, before gRPC or the metrics page tries.

gRPC reports no reason, takes over a Unix socket that another process listens on, and accepts a host
name if only one of its addresses can be bound, even if another's port is in use.
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
    """The address cannot be bound; the message says which and why."""


def check_free(address: Address, option: str) -> None:
    """Return if an address can be bound, by binding and releasing it.

    Args:
        address: port 0 stands for any free one.
        option: the option that gave it, for the message.

    Raises:
        ListenError: it is in use, or not an address of this machine.
    """
    try:
        _try(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "it is in use; is the service already running?"
        raise ListenError(f"cannot listen on {address.target} of {option}: {reason}") from error


def _try(address: Address) -> None:
    if not address.places:
        _try_socket(address.target.removeprefix("unix:"))
        return
    host, port = address.places[0]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failures = [error for family, *_, place in found if (error := _bound(family, place))]
    taken = [error for error in failures if error.errno == errno.EADDRINUSE]
    # One of a name's addresses may not exist here, such as ::1 on a machine without IPv6.
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
