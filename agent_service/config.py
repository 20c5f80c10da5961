"""The agent service's configuration: read once at the door, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_service.domain.store import Durability
from agent_service.rules.capacity import Capacity
from agent_service.serving.config import ServingConfig
from agent_service.wire.addresses import AGENT_PORT, Address, address_to_listen


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How one agent service runs."""

    listen: str = f"127.0.0.1:{AGENT_PORT}"
    """HOST:PORT of gRPC, [IPv6]:PORT or unix:PATH; port 0 takes any free one."""
    store: str = "sqlite:///agent.db"
    """URL of the store."""
    durability: Durability = Durability.POWER
    """What an answered call survives."""
    lease: float = 3600.0
    """Seconds without a report after which a run is abandoned, above 0."""
    metrics_port: int = 9464
    """Port of the Prometheus page, on the host of `listen`; 0 takes any free one."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Who may call, and how much."""
    capacity: Capacity = field(default_factory=Capacity)
    """How many controllers and runs it takes on."""

    def __post_init__(self) -> None:
        """Check that `listen` is an address, and not open to all; raises InvalidArgument."""
        self.serving.check_listening(self.listening, self.metrics_port)

    @property
    def listening(self) -> Address:
        """Where `listen` says."""
        return address_to_listen(self.listen, "listen", port=AGENT_PORT)
