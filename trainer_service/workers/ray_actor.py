"""The Ray actor that hosts one training process on a node; imports no torch, and no Ray.

It starts the process as the service would on its own machine, and relays events and requests.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

from agent_service import __version__
from agent_service.domain.errors import FailedPrecondition
from trainer_service.config import TrainerConfig
from trainer_service.runs.run import EventContent, Run, StateChanged
from trainer_service.training.folder import open_folder
from trainer_service.workers.cores import set_threads
from trainer_service.workers.local import LocalExecutor, LocalProcess

MARK = "shared"
"""File in the checkpoint folder by which a node recognizes the service's own folder."""


class WorkerActor:
    """Hosts one process at a time; while one thread receives events, others may send requests."""

    def __init__(self) -> None:
        """Host no process yet."""
        self._started: LocalProcess | None = None

    def ready(self) -> None:
        """Do nothing; a reply shows that Ray has placed this actor."""

    def start(
        self,
        version: str,
        mark: bytes,
        runs: Sequence[Run],
        parents: Mapping[str, Run],
        config: TrainerConfig,
    ) -> str:
        """Start the process for a service's version and MARK; return the node's name.

        Raises:
            FailedPrecondition: this node has another version, or does not see the checkpoints.
        """
        node = platform.node()
        if version != __version__:
            raise FailedPrecondition(
                f"node {node} has version {__version__} of reinforced-regularization, and the "
                f"service {version}; install the same"
            )
        _check_shared(node, mark, config.checkpoints)
        set_threads(os.environ, threads=config.threads, parallel=1)
        self._started = LocalExecutor(config).start(runs, parents)
        return node

    def receive(
        self, receipts: Sequence[str], seconds: float
    ) -> Sequence[tuple[str, EventContent | None]]:
        """Deliver receipts by run id, then return events as `Process.receive` does."""
        for run_id in receipts:
            self._process.acknowledge(run_id)
        return self._process.receive(seconds)

    def cancel(self, run_id: str) -> None:
        """Cancel a run."""
        self._process.cancel(run_id)

    def preempt(self) -> None:
        """Preempt the process."""
        self._process.preempt()

    def join(self, seconds: float) -> StateChanged:
        """Wait for the process's end."""
        return self._process.join(seconds)

    @property
    def _process(self) -> LocalProcess:
        assert self._started is not None, "started first"
        return self._started


def _check_shared(node: str, mark: bytes, place: str) -> None:
    """Raise FailedPrecondition if the checkpoint folder does not carry the service's mark."""
    try:
        with open_folder(place).read(MARK) as file:
            is_shared = file.read() == mark
    except OSError:
        is_shared = False
    if not is_shared:
        raise FailedPrecondition(
            f"node {node} does not see the service's folder of checkpoints, {place}; give the "
            "service a --storage that all nodes share"
        )
