"""Which of our services answers at an address, for who called the other one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc

from agent_service.domain.errors import AgentError
from agent_service.wire.addresses import AGENT_PORT, TRAINER_PORT

PROBE_SECONDS = 3.0
"""How long a service may take to say which one it is."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of our services, as others know it."""

    name: str
    full_name: str
    """Of its contract."""
    option: str
    """Of commands, for its address."""
    port: int
    """By default."""


SERVICES = {
    service.name: service
    for service in (
        Service("agent service", "agent_service.v1.AgentService", "--agent", AGENT_PORT),
        Service("trainer service", "trainer_service.v1.TrainerService", "--trainer", TRAINER_PORT),
    )
}


def found_at(channel: grpc.Channel) -> Service | None:
    """Return which of our services answers there, as it says itself."""
    gives_up = time.monotonic() + PROBE_SECONDS
    return next((s for s in SERVICES.values() if _is_served(channel, s, gives_up)), None)


def not_this_service(found: Service | None, address: str, asked: Service) -> AgentError:
    """Return the error for a call that `found`, who answers at `address`, does not know."""
    if found is asked:
        return AgentError(
            f"the {asked.name} at {address} does not know this call; it is older than this client"
        )
    other = "a gRPC server, but no" if found is None else f"the {found.name}, not the"
    return AgentError(
        f"at {address} is {other} {asked.name}; give the {asked.name}'s own address: `address` in "
        f"a script, `{asked.option}` of a command; port {asked.port} by default"
    )


def _is_served(channel: grpc.Channel, service: Service, gives_up: float) -> bool:
    """Ask for a service's health, which needs no token, by bytes: the client has no such stub."""
    name = service.full_name.encode()
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        check(bytes([0x0A, len(name)]) + name, timeout=gives_up - time.monotonic())
    except grpc.RpcError:
        return False
    return True
