"""The health probe of any of our services, for command lines and container checks."""

from __future__ import annotations

from contextlib import closing

from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service.client.calls import Calls
from agent_service.client.tls import Tls
from agent_service.domain.errors import Unavailable

PROBE_SECONDS = 3.0
"""How long an answer may take."""


def check_health(address: str, name: str, *, tls: Tls | None = None) -> None:
    """Return if the service at HOST:PORT serves; health needs no token.

    Raises:
        Unavailable: where it does not answer, or answers that it does not serve.
    """
    calls = Calls(address, budget_seconds=0, name=name, tls=tls)
    with closing(calls):
        response = calls.call(
            health_pb2_grpc.HealthStub(calls.channel).Check,
            health_pb2.HealthCheckRequest(),
            deadline=PROBE_SECONDS,
        )
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"the {name} at {address} does not serve: it drains")
