"""Health probe of either service, for commands and container checks."""

from __future__ import annotations

from contextlib import closing

from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service.client.connection.calls import Calls
from agent_service.client.connection.services import PROBE_SECONDS, SERVICES
from agent_service.client.connection.tls import Tls
from agent_service.domain.errors import NotFound, Unavailable


def check_health(address: str, name: str, *, tls: Tls | None = None) -> None:
    """Return if the service at an address is serving; needs no token.

    Raises:
        Unavailable: it does not answer, or answers that it is not serving.
        AgentError: another service listens there.
    """
    request = health_pb2.HealthCheckRequest(service=SERVICES[name].full_name)
    calls = Calls(address, budget_seconds=0, name=name, tls=tls)
    with closing(calls):
        check = health_pb2_grpc.HealthStub(calls.channel).Check
        try:
            response = calls.call(check, request, deadline=PROBE_SECONDS)
        except NotFound:
            raise calls.not_this_service() from None
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"the {name} at {address} is not serving: it is draining")
