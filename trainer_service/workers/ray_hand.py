"""What holds a process of runs on a node of Ray's cluster: an actor, in words of its own.

It starts the process as the service would on its own machine, and passes on what that tells and is
asked. It imports no torch, and no Ray.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

from agent_service import __version__
from agent_service.domain.errors import FailedPrecondition
from trainer_service.config import TrainerConfig
from trainer_service.cores import set_threads
from trainer_service.run import Run, StateChanged, What
from trainer_service.training.folder import open_folder
from trainer_service.workers.local import LocalExecutor, LocalProcess

MARK = "shared"
"""The file of the checkpoints' folder by which a node sees that it is the service's."""


class Hand:
    """Holds one process at a time; while one thread hears it, others may ask it for something."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._process: LocalProcess | None = None

    def place(self) -> None:
        """Do nothing; an answer says that Ray has found a place."""

    def start(
        self,
        version: str,
        mark: bytes,
        runs: Sequence[Run],
        parents: Mapping[str, Run],
        config: TrainerConfig,
    ) -> str:
        """Start the process; return the node's name.

        Args:
            version: the service's, which must be this node's.
            mark: what is in the file MARK.
            runs: to train.
            parents: of those that go on from another run, by their id.
            config: the service's.

        Raises:
            FailedPrecondition: this node cannot train them as the service's own would.
        """
        node = platform.node()
        if version != __version__:
            raise FailedPrecondition(
                f"node {node} has version {__version__} of reinforced-regularization, and the "
                f"service {version}; install the same"
            )
        _check_shared(node, mark, config.checkpoints)
        set_threads(os.environ, threads=config.threads, parallel=1)
        self._process = LocalExecutor(config).start(runs, parents)
        return node

    def hear(self, receipts: Sequence[str], seconds: float) -> Sequence[tuple[str, What | None]]:
        """Pass on receipts by run, then what the process tells; see `Process`."""
        for run_id in receipts:
            self._held.acknowledge(run_id)
        return self._held.hear(seconds)

    def cancel(self, run_id: str) -> None:
        """Ask the process to end a run."""
        self._held.cancel(run_id)

    def hand_back(self) -> None:
        """Ask the process to hand its runs back."""
        self._held.hand_back()

    def end(self, seconds: float) -> StateChanged:
        """See the process gone."""
        return self._held.end(seconds)

    @property
    def _held(self) -> LocalProcess:
        assert self._process is not None, "started first"
        return self._process


def _check_shared(node: str, mark: bytes, place: str) -> None:
    """Raise FailedPrecondition where a place is not the service's, with a service's mark."""
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
