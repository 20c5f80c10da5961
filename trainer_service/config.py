"""The trainer service's configuration: read once at the door, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How one trainer service runs."""

    agent: str = "127.0.0.1:50051"
    """HOST:PORT of the agent service."""
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

    @property
    def host(self) -> str:
        """The host part of `listen`."""
        return self.listen.rpartition(":")[0]
