"""Processes of runs on a cluster of Ray; the only module that knows Ray.

Each process is held by an actor (`Hand`) on a node with room for it, which ends with this service.
Ray finds the node, and tells when it is gone: then the runs go on elsewhere, from their last
checkpoints. What an actor passes on is what the process tells a service on its own machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from agent_service import __version__
from agent_service.connecting import Access
from agent_service.domain.errors import AgentError
from trainer_service.config import TrainerConfig
from trainer_service.ray_hand import MARK, Hand
from trainer_service.run import Run, RunState, StateChanged, What
from trainer_service.training.folder import open_folder

WAIT_SECONDS = 5.0
"""After these, a run that no node has room for says so; and again, as long as it waits."""
REPLY_SECONDS = 10.0
"""What an actor's answer may take longer than what it waits for."""
_THREADS = 3
"""Of an actor: one hears, others are asked meanwhile."""


class RayExecutor:
    """Starts processes on a cluster."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect.

        Args:
            config: the service's.

        Raises:
            AgentError: there is no cluster, or nothing can be stored for it.
        """
        self._config = _of_nodes(config)
        self._mark = secrets.token_hex().encode()
        self._address = config.address or "auto"
        open_folder(self._config.checkpoints).write(MARK, lambda file: _write(file, self._mark))
        try:
            ray.init(self._address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AgentError(f"no Ray cluster at {self._address}: {reason}") from error
        self._hand = ray.remote(Hand).options(
            num_cpus=config.threads,
            num_gpus=config.gpus,
            max_concurrency=_THREADS,
        )

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> RayProcess:
        """Ask for a place for a process; see `Executor`."""
        hand = self._hand.remote()
        started = hand.start.remote(__version__, self._mark, runs, parents, self._config)
        wanted = f"{self._config.threads} CPUs"
        if self._config.gpus:
            wanted += f" and {self._config.gpus:g} GPUs"
        return RayProcess(hand, started, [run.id for run in runs], wanted)

    def describe(self) -> str:
        """Return the cluster in words."""
        nodes = sum(node["Alive"] for node in ray.nodes())
        return f"Ray at {self._address}, {nodes} nodes"

    def close(self) -> None:
        """Leave the cluster, which ends what is left there."""
        ray.shutdown()


def _of_nodes(config: TrainerConfig) -> TrainerConfig:
    """Return a configuration with paths that hold in any folder of any machine that has them."""
    access = config.agent_access
    files = {
        name: _absolute(getattr(access, name)) for name in ("ca", "certificate", "key", "token")
    }
    return replace(
        config,
        data=config.data.absolute(),
        runs=config.runs.absolute(),
        agent_access=Access(**files),
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _write(file: Any, data: bytes) -> None:
    file.write(data)


class RayProcess:
    """A process that an actor holds; see `Process`."""

    def __init__(self, hand: Any, started: Any, run_ids: Sequence[str], wanted: str) -> None:
        """Take an actor.

        Args:
            hand: the actor's handle, which has no types.
            started: refers to the answer of its `start`.
            run_ids: of its runs.
            wanted: what of a node it needs, in words.
        """
        self._hand = hand
        self._started = started
        self._wanted = wanted
        self._training = list(run_ids)
        self._owing: set[str] = set()
        """Runs that told something and wait until it is stored."""
        self._receipts: list[str] = []
        self._node = ""
        """Where it is, once it has a place."""
        self._has_waited = False
        self._lost: StateChanged | None = None
        """What becomes of its runs, since the actor is gone."""

    def hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        """Return what the actor passes on; before it has a place, that it waits for one."""
        try:
            if not self._node and (waiting := self._wait_for_place()) is not None:
                return waiting
            receipts, self._receipts = self._receipts, []
            answer = self._hand.hear.remote(receipts, seconds)
            # An actor that hangs answers nothing, not even that nothing was told.
            told = ray.get(answer, timeout=seconds + REPLY_SECONDS)
        except GetTimeoutError:
            return []
        except RayError as error:
            return self._lose(error)
        self._training = [run_id for run_id in self._training if (run_id, None) not in told]
        self._owing = {run_id for run_id, what in told if what is not None}
        return [(run_id, self._with_node(what)) for run_id, what in told]

    def _wait_for_place(self) -> Sequence[tuple[str, What]] | None:
        """Return what is told while it has no place, or of that; None where it has one at once."""
        done, _ = ray.wait([self._started], timeout=WAIT_SECONDS)
        if not done:
            self._has_waited = True
            return self._told(f"waits for a node of Ray with {self._wanted} free")
        self._node = ray.get(self._started)
        return self._told("") if self._has_waited else None

    def _told(self, cause: str) -> Sequence[tuple[str, What]]:
        return [
            (run_id, StateChanged(state=RunState.RUNNING, cause=cause)) for run_id in self._training
        ]

    def _with_node(self, what: What | None) -> What | None:
        """Say where it was, of what went wrong there."""
        if isinstance(what, StateChanged) and what.state is not RunState.RUNNING and what.cause:
            return replace(what, cause=f"{what.cause} (on node {self._node})")
        return what

    def _lose(self, error: RayError) -> Sequence[tuple[str, What | None]]:
        """Take all runs as having left, since there is no actor any more."""
        self.kill()
        if self._lost is None:
            self._lost = _end_by(error, self._node)
        left, self._training = self._training, []
        return [(run_id, None) for run_id in left]

    def acknowledge(self, run_id: str) -> None:
        """Send a receipt with the next hearing, if the run itself has told something."""
        if run_id in self._owing:
            self._owing.remove(run_id)
            self._receipts.append(run_id)

    def cancel(self, run_id: str) -> None:
        """Ask the actor; what waits for a place ends, and others that waited with it begin anew."""
        if self._node:
            self._hand.cancel.remote(run_id)
        else:
            self.kill()

    def hand_back(self) -> None:
        """Ask the actor; what waits for a place ends."""
        if self._node:
            self._hand.hand_back.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """End the actor, and the process with it."""
        with suppress(RayError, ValueError):
            ray.kill(self._hand)

    def end(self, seconds: float) -> StateChanged:
        """Ask the actor how the process ended, and end it too."""
        if self._lost is None:
            try:
                end: StateChanged = ray.get(
                    self._hand.end.remote(seconds), timeout=seconds + REPLY_SECONDS
                )
                self._lost = replace(end, cause=end.cause and f"{end.cause} (on node {self._node})")
            except RayError as error:
                self._lose(error)
        self.kill()
        assert self._lost is not None
        return self._lost


def _end_by(error: RayError, node: str) -> StateChanged:
    """Return what becomes of runs whose actor ended by an error."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        state = RunState.FAILED if isinstance(cause, AgentError) else RunState.QUEUED
        return StateChanged(state=state, cause=str(cause))
    return StateChanged(state=RunState.QUEUED, cause=f"node {node}: {error}")
