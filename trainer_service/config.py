"""The trainer service's configuration: read once at the door, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from agent_service.domain.errors import invalid
from agent_service.serving.access import Access
from agent_service.serving.config import ServingConfig
from agent_service.wire.addresses import (
    AGENT_PORT,
    TRAINER_PORT,
    Address,
    address_to_call,
    address_to_listen,
)

MOST_THREADS = 4096
"""Of one process; torch ends with a crash where the system has no more."""
RAY_PORT = 10001
"""Of Ray's clients, where nothing else is said."""


class ExecutorName(StrEnum):
    """Where processes of runs are started."""

    LOCAL = "local"
    """On this machine."""
    RAY = "ray"
    """On a cluster of Ray."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How one trainer service runs."""

    agent: str = f"127.0.0.1:{AGENT_PORT}"
    """Address of the agent service, as its client takes it."""
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
    storage: str = ""
    """URL of the folder of checkpoints, as fsspec knows it; empty for one beside the run store.

    What several services keep there does not meet.
    """
    executor: ExecutorName = ExecutorName.LOCAL
    """Where processes of runs are started."""
    address: str = ""
    """Ray's cluster: `ray://HOST:10001`, `HOST:6379` or `auto`, which empty is as well."""
    gpus_per_process: float | None = None
    """What a process has of Ray's GPUs; None is one where the device is a GPU, else none."""
    listen: str = f"127.0.0.1:{TRAINER_PORT}"
    """HOST:PORT of gRPC, [IPv6]:PORT or unix:PATH; port 0 takes any free one."""
    metrics_port: int = 9465
    """Port of the Prometheus page, on the host of `listen`; 0 takes any free one."""
    parallel: int = 1
    """Processes that train at once."""
    together: int = 1
    """Runs in each process, at the most: those of one spec but for seed and values are stacked."""
    threads: int = 0
    """CPU threads of each process; 0 is its share of this machine's usable cores, on Ray 1."""
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
        for name in ("parallel", "together"):
            if not 1 <= getattr(self, name) < 2**31:
                raise invalid(name, f"{getattr(self, name)} must be at least 1, and below 2^31")
        if self.threads > MOST_THREADS:
            raise invalid("threads", f"{self.threads} is more than {MOST_THREADS}")
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
        self._check_executor()
        if address_to_call(self.agent, "agent", port=AGENT_PORT).target == self.listening.target:
            raise invalid("agent", f"{self.agent} is where this service listens itself")
        self.serving.check_listening(self.listening, self.metrics_port)

    def _check_executor(self) -> None:
        if self.executor is ExecutorName.LOCAL:
            if self.address:
                raise invalid("address", "is of Ray; give --executor ray with it")
            if self.gpus_per_process is not None:
                raise invalid("gpus_per_process", "is of Ray; give --executor ray with it")
            return
        if ":" in self.address:
            address_to_call(self.address.removeprefix("ray://"), "address", port=RAY_PORT)
        if self.device not in ("cpu", "cuda", "cuda:0"):
            text = f"{self.device!r} must be cpu or cuda: on Ray a process sees its own GPU only"
            raise invalid("device", text)
        if not 0 <= self.gpus <= 1:
            raise invalid("gpus_per_process", f"{self.gpus} must be from 0 to 1")
        if self.device != "cpu" and not self.gpus:
            raise invalid("gpus_per_process", f"0 must be above 0 for the device {self.device}")

    @property
    def gpus(self) -> float:
        """What a process has of Ray's GPUs."""
        if self.gpus_per_process is None:
            return float(self.device != "cpu")
        return self.gpus_per_process

    @property
    def checkpoints(self) -> str:
        """Path or URL of the folder of the runs' checkpoints."""
        return self.storage or str(self.runs.with_name(f"{self.runs.name}.checkpoints"))

    def of_store(self, identity: str) -> TrainerConfig:
        """Return this configuration with what is stored elsewhere in a folder of a run store's own.

        Args:
            identity: of the run store.
        """
        if not self.storage:
            return self
        return replace(self, storage=f"{self.storage.rstrip('/')}/{identity}")

    @property
    def listening(self) -> Address:
        """Where `listen` says."""
        return address_to_listen(self.listen, "listen", port=TRAINER_PORT)
