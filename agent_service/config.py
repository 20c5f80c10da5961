"""The agent service's configuration: read once at the door, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_service.domain.capacity import Capacity
from agent_service.domain.ports import Durability
from agent_service.rpc.serving_config import ServingConfig


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How one agent service runs."""

    listen: str = "127.0.0.1:50051"
    """HOST:PORT of gRPC; port 0 takes any free one."""
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
        """Check that `listen` is not open to everybody; raises InvalidArgument."""
        self.serving.check_listening(self.listen)

    @property
    def host(self) -> str:
        """The host part of `listen`."""
        return self.listen.rpartition(":")[0]
