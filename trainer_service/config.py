"""The trainer service's configuration: read once at the door, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent_service.connecting import Access
from agent_service.domain.errors import invalid
from agent_service.rpc.serving_config import ServingConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How one trainer service runs."""

    agent: str = "127.0.0.1:50051"
    """HOST:PORT of the agent service."""
    agent_access: Access = field(default_factory=Access)
    """How runs prove to the agent who they are."""
    device: str = "cpu"
    """As torch names it: `cpu`, `cuda:0`."""
    data: Path = Path("data")
    """Folder of the data sets."""
    data_memory: str = "auto"
    """Where images are held: `resident` on the device, `streamed` to it, or by what fits.

    No result depends on it, so it is the service's, not a run's.
    """
    runs: Path = Path("trainer.db")
    """File of the runs and their events."""
    listen: str = "127.0.0.1:50052"
    """HOST:PORT of gRPC; port 0 takes any free one."""
    metrics_port: int = 9465
    """Port of the Prometheus page, on the host of `listen`; 0 takes any free one."""
    parallel: int = 1
    """Runs that train at once."""
    threads: int = 0
    """CPU threads of each run; 0 is its share of the cores that the service may use."""
    checkpoint_seconds: float | None = None
    """Between two checkpoints of a run; None lets them take 1% of its time, 0 makes one a chunk."""
    grace_seconds: float = 20.0
    """How long a run's chunk may go on once the service stops, before the run is killed."""
    restarts: int = 3
    """How often a run starts again from its checkpoint without a new chunk before it fails."""
    stall_seconds: float = 3600.0
    """How long a run may tell nothing, as within one chunk, before its process is killed."""
    agent_seconds: float = 3600.0
    """How long a run waits for an agent that is away before it fails."""
    tensorboard: Path | None = None
    """Folder of event files for TensorBoard, one folder a run; None writes none."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Who may call, and how much."""
    max_runs: int = 10_000
    """Runs that wait or train; no more are taken."""

    def __post_init__(self) -> None:
        """Check ranges; raises InvalidArgument naming the field that is wrong."""
        if self.parallel < 1:
            raise invalid("parallel", f"{self.parallel} must be at least 1")
        for name in (
            "threads",
            "checkpoint_seconds",
            "grace_seconds",
            "restarts",
            "agent_seconds",
        ):
            if (getattr(self, name) or 0) < 0:
                raise invalid(name, f"{getattr(self, name)} must be 0 or more")
        if self.max_runs < 1:
            raise invalid("max_runs", f"{self.max_runs} must be at least 1")
        if not self.stall_seconds > 0:
            raise invalid("stall_seconds", f"{self.stall_seconds} must be above 0")
        self.serving.check_listening(self.listen)

    @property
    def checkpoints(self) -> Path:
        """Folder of the runs' checkpoints, beside the run store."""
        return self.runs.with_name(f"{self.runs.name}.checkpoints")

    @property
    def host(self) -> str:
        """The host part of `listen`."""
        return self.listen.rpartition(":")[0]
