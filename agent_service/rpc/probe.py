"""The health probe of any of our services, for command lines and container checks."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service.domain.errors import Unavailable
from agent_service.status import code_of

PROBE_SECONDS = 3.0
"""How long an answer may take."""


def check_health(address: str, name: str) -> None:
    """Return if the service at HOST:PORT serves.

    Raises:
        Unavailable: where it does not answer, or answers that it does not serve.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS
            )
        except grpc.RpcError as error:
            raise Unavailable(f"no {name} at {address} ({code_of(error).name})") from error
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"the {name} at {address} does not serve: it drains")
