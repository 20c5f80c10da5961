"""The trainer service's configuration, immutable after startup."""

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

MAX_THREADS = 4096
"""Limit per process; torch crashes if the system cannot create a thread."""
RAY_PORT = 10001
"""Default port of Ray clients."""


class ExecutorName(StrEnum):
    """Where run processes are started."""

    LOCAL = "local"
    """On this machine."""
    RAY = "ray"
    """On a Ray cluster."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of one trainer service."""

    agent: str = f"127.0.0.1:{AGENT_PORT}"
    """Address of the agent service, in the form that `AgentClient` takes."""
    agent_access: Access = field(default_factory=Access)
    """TLS files and token for calls to the agent."""
    device: str = "cpu"
    """Torch device name, as `cpu` or `cuda:0`."""
    data: Path = Path("data")
    """Folder of the data sets."""
    data_memory: str = "auto"
    """Where images are held: `resident` on the device, `streamed` to it, or `auto` by what fits.

    Results do not depend on it, so it is a setting of the service, not of runs.
    """
    runs: Path = Path("trainer.db")
    """File of the run store."""
    storage: str = ""
    """fsspec URL of the checkpoint folder; empty for one beside the run store.

    Several services may share it: each has its own subfolder.
    """
    executor: ExecutorName = ExecutorName.LOCAL
    """Where run processes are started."""
    address: str = ""
    """Address of the Ray cluster: `ray://HOST:10001`, `HOST:6379` or `auto`; empty is `auto`."""
    gpus_per_process: float | None = None
    """Share of a GPU that Ray reserves for each process; None is 1 on a GPU, else 0."""
    listen: str = f"127.0.0.1:{TRAINER_PORT}"
    """Address of gRPC: HOST:PORT, [IPv6]:PORT or unix:PATH; port 0 selects a free one."""
    metrics_port: int = 9465
    """Port of the Prometheus page, on the host of `listen`; 0 selects a free one."""
    parallel: int = 1
    """Number of processes that train at once."""
    together: int = 1
    """Most runs stacked in one process: runs whose specs differ only in seed and values."""
    threads: int = 0
    """CPU threads per process; 0 is usable cores / `parallel`, and 1 on Ray."""
    checkpoint_seconds: float | None = None
    """Time between checkpoints; None spends 1% of training time on them, 0 saves every chunk."""
    grace_seconds: float = 20.0
    """How long a chunk may still train when the service stops, before its process is killed."""
    restarts: int = 3
    """Restarts without a new chunk before a run fails."""
    stall_seconds: float = 3600.0
    """How long a process may send no event, as within one chunk, before it is killed."""
    agent_seconds: float = 3600.0
    """How long a run waits for an unavailable agent before it fails."""
    tensorboard: Path | None = None
    """Folder of TensorBoard event files, with a subfolder per run; None writes none."""
    serving: ServingConfig = field(default_factory=ServingConfig)
    """Access and limits of the gRPC server."""
    max_runs: int = 10_000
    """Most runs that may wait or train at once."""

    def __post_init__(self) -> None:
        """Check ranges; raises InvalidArgument naming the field that is wrong."""
        for name in ("parallel", "together"):
            if not 1 <= getattr(self, name) < 2**31:
                raise invalid(name, f"{getattr(self, name)} must be at least 1, and below 2^31")
        if self.threads > MAX_THREADS:
            raise invalid("threads", f"{self.threads} is more than {MAX_THREADS}")
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
                raise invalid("address", "requires --executor ray")
            if self.gpus_per_process is not None:
                raise invalid("gpus_per_process", "requires --executor ray")
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
        """GPUs that Ray reserves for each process."""
        if self.gpus_per_process is None:
            return float(self.device != "cpu")
        return self.gpus_per_process

    @property
    def checkpoints(self) -> str:
        """Path or URL of the checkpoint folder."""
        return self.storage or str(self.runs.with_name(f"{self.runs.name}.checkpoints"))

    def with_storage_of(self, identity: str) -> TrainerConfig:
        """Return this configuration with a subfolder of `storage` for the run store of an id."""
        if not self.storage:
            return self
        return replace(self, storage=f"{self.storage.rstrip('/')}/{identity}")

    @property
    def listening(self) -> Address:
        """The parsed `listen`."""
        return address_to_listen(self.listen, "listen", port=TRAINER_PORT)
