"""Identifies which service answers at an address, for errors about a mistaken address."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc

from agent_service.domain.errors import AgentError
from agent_service.wire.addresses import AGENT_PORT, TRAINER_PORT

PROBE_SECONDS = 3.0
"""Timeout for a service to identify itself."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two services."""

    name: str
    full_name: str
    """Its full protobuf name."""
    option: str
    """The command-line option for its address."""
    port: int
    """Its default port."""


SERVICES = {
    service.name: service
    for service in (
        Service("agent service", "agent_service.v1.AgentService", "--agent", AGENT_PORT),
        Service("trainer service", "trainer_service.v1.TrainerService", "--trainer", TRAINER_PORT),
    )
}


def identify(channel: grpc.Channel) -> Service | None:
    """Return the service that answers on a channel, according to its health check; else None."""
    gives_up = time.monotonic() + PROBE_SECONDS
    return next((s for s in SERVICES.values() if _is_served(channel, s, gives_up)), None)


def not_this_service(found: Service | None, address: str, asked: Service) -> AgentError:
    """Return the error for a call that the service `found` at `address` does not implement."""
    if found is asked:
        return AgentError(
            f"the {asked.name} at {address} lacks this call; it is older than this client"
        )
    other = "a gRPC server, but no" if found is None else f"the {found.name}, not the"
    return AgentError(
        f"at {address} is {other} {asked.name}; give the {asked.name}'s own address: `address` in "
        f"a script, `{asked.option}` of a command; port {asked.port} by default"
    )


def _is_served(channel: grpc.Channel, service: Service, gives_up: float) -> bool:
    """Check a service's health, which needs no token; in raw bytes, as the client has no stub."""
    name = service.full_name.encode()
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        check(bytes([0x0A, len(name)]) + name, timeout=gives_up - time.monotonic())
    except grpc.RpcError:
        return False
    return True
