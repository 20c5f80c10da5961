"""Run processes on a Ray cluster; only this module and `ray_pool` import Ray.

An actor (`WorkerActor`) hosts each process on a node with free resources, and ends with this
service. Ray selects the node and reports its loss; the runs then resume elsewhere from their last
checkpoints. Events are the same as those of a process on the service's own machine.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, BinaryIO

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from agent_service import __version__
from agent_service.domain.errors import AgentError
from agent_service.serving.access import Access
from trainer_service.config import TrainerConfig
from trainer_service.runs.run import EventContent, Run, RunState, StateChanged
from trainer_service.training.folder import open_folder
from trainer_service.workers.ray_actor import MARK
from trainer_service.workers.ray_pool import WorkerPool, end_actor

WAIT_SECONDS = 5.0
"""Interval at which a run without a place reports that it waits."""
REPLY_SECONDS = 10.0
"""Time allowed for an actor's reply, beyond the wait that was asked for."""
CONNECT_SECONDS = 10.0
"""Timeout for a connection to the cluster's host."""


class RayExecutor:
    """Starts run processes on a cluster."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect to the cluster.

        Raises:
            AgentError: no cluster answers.
            OSError: the checkpoint folder cannot be written.
        """
        self._config = _with_absolute_paths(config)
        self._mark = secrets.token_hex().encode()
        self._address = config.address or "auto"
        mark = self._mark

        def write(file: BinaryIO) -> None:
            file.write(mark)

        open_folder(self._config.checkpoints).write(MARK, write)
        try:
            _check_reachable(self._address)
            ray.init(self._address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AgentError(f"no Ray cluster at {self._address}: {reason}") from error
        self._pool = WorkerPool(cpus=config.threads, gpus=config.gpus)

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> RayProcess:
        """Request an actor that trains `runs`."""
        arguments = (__version__, self._mark, runs, parents, self._config)
        return RayProcess(self._pool, arguments, [run.id for run in runs])

    def describe(self) -> str:
        """Return the number of nodes and the address of the cluster."""
        nodes = sum(node["Alive"] for node in ray.nodes())
        return f"{nodes} nodes of Ray at {self._address}"

    def close(self) -> None:
        """Disconnect, which ends the remaining actors."""
        self._pool.end_idle()
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if HOST:PORT is not reachable; Ray itself takes minutes to find out."""
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if found:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _with_absolute_paths(config: TrainerConfig) -> TrainerConfig:
    """Return the configuration with absolute paths, since nodes have other working directories."""
    files = {
        field.name: path and path.absolute()
        for field in fields(Access)
        for path in [getattr(config.agent_access, field.name)]
    }
    data, runs = config.data.absolute(), config.runs.absolute()
    return replace(config, data=data, runs=runs, agent_access=Access(**files))


class RayProcess:
    """A process hosted by an actor."""

    def __init__(self, pool: WorkerPool, arguments: Sequence[Any], run_ids: Sequence[str]) -> None:
        """Acquire an actor and start the process, with arguments of `WorkerActor.start`."""
        self._pool = pool
        self._arguments = arguments
        self._acquiring = threading.Lock()
        self._is_killed = False
        self._acquire()
        self._node = ""
        """Name of the actor's node; empty until the process has started."""
        self._has_waited = False
        self._training = list(run_ids)
        self._unacknowledged: set[str] = set()
        """Runs that wait for a receipt of their last event."""
        self._receipts: list[str] = []
        self._lost: StateChanged | None = None
        """The runs' new state, if the actor is lost."""

    def _acquire(self) -> None:
        self._actor = self._pool.acquire()
        self._placed = self._actor.ready.remote()
        self._started = self._actor.start.remote(*self._arguments)

    def _acquire_another(self) -> bool:
        """Acquire another actor; return False if the process was killed meanwhile."""
        self._pool.end_idle()
        time.sleep(WAIT_SECONDS)
        with self._acquiring:
            if not self._is_killed:
                self._acquire()
            return not self._is_killed

    def receive(self, seconds: float) -> Sequence[tuple[str, EventContent | None]]:
        """Return events from the actor, or, until it is placed, that the runs wait for a place."""
        try:
            if not self._node and (waiting := self._begin(seconds)):
                return waiting
            return self._receive(seconds)
        except GetTimeoutError:
            return []  # the actor hangs: it did not even reply that there are no events
        except RayError as error:
            # Nothing had begun, so nothing is lost: Ray chose a dying node, or its idle actor.
            is_gone = isinstance(error, RayActorError) and not error.actor_init_failed
            if is_gone and not self._node and self._acquire_another():
                self._has_waited = True
                return self._to_all(self._waits)
            return self._lose(error)

    @property
    def _waits(self) -> str:
        return f"waits for a place on Ray: {self._pool.needs}"

    def _begin(self, seconds: float) -> Sequence[tuple[str, EventContent]]:
        """Wait until the process has started; return events about the wait, if any."""
        if not ray.wait([self._placed], timeout=WAIT_SECONDS)[0]:
            self._has_waited = True
            return self._to_all(self._waits)
        if self._has_waited:
            self._has_waited = False
            return self._to_all("")
        self._node = ray.get(self._started, timeout=seconds)
        return []

    def _to_all(self, cause: str) -> Sequence[tuple[str, EventContent]]:
        what = StateChanged(state=RunState.RUNNING, cause=cause)
        return [(run_id, what) for run_id in self._training]

    def _receive(self, seconds: float) -> Sequence[tuple[str, EventContent | None]]:
        receipts, self._receipts = self._receipts, []
        reply = self._actor.receive.remote(receipts, seconds)
        events: Sequence[tuple[str, EventContent | None]] = ray.get(
            reply, timeout=seconds + REPLY_SECONDS
        )
        self._training = [run_id for run_id in self._training if (run_id, None) not in events]
        self._unacknowledged = {run_id for run_id, what in events if what is not None}
        return [(run_id, self._with_node(what)) for run_id, what in events]

    def _with_node(self, what: EventContent | None) -> EventContent | None:
        """Add the node to the cause of a failure."""
        if isinstance(what, StateChanged) and what.state is not RunState.RUNNING and what.cause:
            return replace(what, cause=f"{what.cause} (on node {self._node})")
        return what

    def _lose(self, error: RayError) -> Sequence[tuple[str, EventContent | None]]:
        """Report all runs as having left, since the actor is gone."""
        end_actor(self._actor)
        self._pool.end_idle()
        self._lost = _end_state(error, self._node)
        left, self._training = self._training, []
        return [(run_id, None) for run_id in left]

    def acknowledge(self, run_id: str) -> None:
        """Queue a receipt for the next `receive`, if the event came from the run itself."""
        if run_id in self._unacknowledged:
            self._unacknowledged.remove(run_id)
            self._receipts.append(run_id)

    def cancel(self, run_id: str) -> None:
        """Cancel in the actor; before it is placed, kill the process and requeue its other runs."""
        if self._node:
            self._actor.cancel.remote(run_id)
        else:
            self.kill()

    def preempt(self) -> None:
        """Preempt in the actor; before it is placed, end the process."""
        if self._node:
            self._actor.preempt.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """End the actor, and the process with it."""
        with self._acquiring:
            self._is_killed = True
            end_actor(self._actor)

    def join(self, seconds: float) -> StateChanged:
        """Return how the process ended, and release the actor."""
        if self._lost is not None:
            return self._lost
        try:
            reply = self._actor.join.remote(seconds)
            end: StateChanged = ray.get(reply, timeout=seconds + REPLY_SECONDS)
        except RayError as error:
            self._lose(error)
            assert self._lost is not None
            return self._lost
        self._pool.release(self._actor)
        return replace(end, cause=end.cause and f"{end.cause} (on node {self._node})")


def _end_state(error: RayError, node: str) -> StateChanged:
    """Return the new state of runs whose actor ended with an error."""
    if isinstance(error, RayTaskError):
        # Raised by the actor itself: a misconfigured node fails the run, with the reason.
        is_final = isinstance(error.cause, AgentError)
        state = RunState.FAILED if is_final else RunState.QUEUED
        return StateChanged(state=state, cause=str(error.cause))
    *_, reason = str(error).strip().splitlines() or ["?"]
    place = f"on node {node} " if node else ""
    cause = f"its process {place}is lost: {reason.strip().split('. ')[0]}"
    return StateChanged(state=RunState.QUEUED, cause=cause)
