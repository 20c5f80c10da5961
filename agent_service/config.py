"""The agent service's configuration: read once at the start, immutable."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_service.domain.store import Durability
from agent_service.rules.capacity import Capacity
from agent_service.serving.config import ServingConfig
from agent_service.wire.addresses import AGENT_PORT, Address, address_to_listen


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Configuration of an agent service."""

    listen: str = f"127.0.0.1:{AGENT_PORT}"
    """HOST:PORT of gRPC, [IPv6]:PORT or unix:PATH; port 0 takes any free one."""
    store: str = "sqlite:///agent.db"
    """URL of the store."""
    durability: Durability = Durability.POWER
    """Failures that an answered call survives."""
    lease: float = 3600.0
    """Seconds without a report after which a run is abandoned, above 0."""
    metrics_port: int = 9464
    """Port of the Prometheus page, on the host of `listen`; 0 takes any free one."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """TLS, tokens, limits of calls, logging and tracing."""
    capacity: Capacity = field(default_factory=Capacity)
    """Limits for controllers and runs."""

    def __post_init__(self) -> None:
        """Check addresses, and that others cannot connect insecurely; raises InvalidArgument."""
        self.serving.check_listening(self.listening, self.metrics_port)

    @property
    def listening(self) -> Address:
        """The parsed address of `listen`."""
        return address_to_listen(self.listen, "listen", port=AGENT_PORT)
