"""Which of our services answers at an address, for who called the other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from agent_service.addresses import AGENT_PORT, TRAINER_PORT
from agent_service.domain.errors import AgentError

PROBE_SECONDS = 3.0
"""How long an answer may take."""


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


def not_this_service(channel: grpc.Channel, address: str, asked: Service) -> AgentError:
    """Return the error for a call that whoever answers at `address` does not know."""
    found = next((s for s in SERVICES.values() if _is_served(channel, s)), None)
    if found is asked:
        return AgentError(
            f"the {asked.name} at {address} does not know this call; it is older than this client"
        )
    other = "a gRPC server, but no" if found is None else f"the {found.name}, not the"
    return AgentError(
        f"at {address} is {other} {asked.name}; give the {asked.name}'s own address "
        f"(`{asked.option}`; port {asked.port} by default)"
    )


def _is_served(channel: grpc.Channel, service: Service) -> bool:
    """Ask for a service's health, which needs no token, by bytes: the client has no such stub."""
    name = service.full_name.encode()
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        check(bytes([0x0A, len(name)]) + name, timeout=PROBE_SECONDS)
    except grpc.RpcError:
        return False
    return True
