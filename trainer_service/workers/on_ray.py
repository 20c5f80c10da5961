"""Processes of runs on a cluster of Ray; knows Ray, as only `ray_places` does beside it.

Each process is held by an actor (`Hand`) on a node with room for it, which ends with this service.
Ray finds the node, and tells when it is gone: then the runs go on elsewhere, from their last
checkpoints. What an actor passes on is what the process tells a service on its own machine.
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
from trainer_service.run import Run, RunState, StateChanged, What
from trainer_service.training.folder import open_folder
from trainer_service.workers.ray_hand import MARK
from trainer_service.workers.ray_places import Hands, end_actor

WAIT_SECONDS = 5.0
"""After these, a run that has no place yet says so; and again, as long as it waits."""
REPLY_SECONDS = 10.0
"""What an actor's answer may take longer than what it waits for."""
KNOCK_SECONDS = 10.0
"""How long the cluster's host may take to answer at all."""


class RayExecutor:
    """Starts processes on a cluster."""

    def __init__(self, config: TrainerConfig) -> None:
        """Connect.

        Args:
            config: the service's.

        Raises:
            AgentError: there is no cluster.
            OSError: the folder of checkpoints cannot be written.
        """
        self._config = _of_nodes(config)
        self._mark = secrets.token_hex().encode()
        self._address = config.address or "auto"
        open_folder(self._config.checkpoints).write(MARK, self._write_mark)
        try:
            _knock(self._address)
            ray.init(self._address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AgentError(f"no Ray cluster at {self._address}: {reason}") from error
        self._hands = Hands(cpus=config.threads, gpus=config.gpus)

    def _write_mark(self, file: BinaryIO) -> None:
        file.write(self._mark)

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> RayProcess:
        """Ask for a place for a process; see `Executor`."""
        about = (__version__, self._mark, runs, parents, self._config)
        return RayProcess(self._hands, about, [run.id for run in runs])

    def describe(self) -> str:
        """Return the cluster in words."""
        nodes = sum(node["Alive"] for node in ray.nodes())
        return f"{nodes} nodes of Ray at {self._address}"

    def close(self) -> None:
        """Leave the cluster, which ends what is left there."""
        self._hands.let_all_go()
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT, which Ray finds out after minutes only."""
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if found:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _of_nodes(config: TrainerConfig) -> TrainerConfig:
    """Return a configuration with paths that mean the same in any folder of a machine."""
    files = {
        field.name: path and path.absolute()
        for field in fields(Access)
        for path in [getattr(config.agent_access, field.name)]
    }
    data, runs = config.data.absolute(), config.runs.absolute()
    return replace(config, data=data, runs=runs, agent_access=Access(**files))


class RayProcess:
    """A process that an actor holds; see `Process`."""

    def __init__(self, hands: Hands, about: Sequence[Any], run_ids: Sequence[str]) -> None:
        """Take an actor.

        Args:
            hands: where actors are taken from, and given back to.
            about: what an actor's `start` is given.
            run_ids: of its runs.
        """
        self._hands = hands
        self._about = about
        self._taking = threading.Lock()
        self._is_unwanted = False
        """Whether it was killed."""
        self._take()
        self._node = ""
        """Where it is, once it has started there."""
        self._has_waited = False
        self._training = list(run_ids)
        self._owing: set[str] = set()
        """Runs that told something and wait until it is stored."""
        self._receipts: list[str] = []
        self._lost: StateChanged | None = None
        """What becomes of its runs, since the actor is gone."""

    def _take(self) -> None:
        """Ask for a place."""
        self._hand = self._hands.take()
        self._placed = self._hand.place.remote()
        self._started = self._hand.start.remote(*self._about)

    def _take_another(self) -> bool:
        """Ask for another place, unless nothing is wanted any more; return whether it did."""
        self._hands.let_all_go()
        time.sleep(WAIT_SECONDS)
        with self._taking:
            if not self._is_unwanted:
                self._take()
            return not self._is_unwanted

    def hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        """Return what the actor passes on; before it has a place, that it waits for one."""
        try:
            if not self._node and (told := self._begin(seconds)):
                return told
            return self._hear(seconds)
        except GetTimeoutError:
            return []  # an actor that hangs answers nothing, not even that nothing was told
        except RayError as error:
            # What has not begun is not lost: Ray chose a node that was dying, or an idle actor's.
            if self._has_no_place(error) and self._take_another():
                self._has_waited = True
                return self._tell_all(self._waits)
            return self._lose(error)

    def _has_no_place(self, error: RayError) -> bool:
        """Whether an error says no more than that the place it was given is none."""
        is_gone = isinstance(error, RayActorError) and not error.actor_init_failed
        return is_gone and not self._node

    @property
    def _waits(self) -> str:
        return f"waits for a place on Ray: {self._hands.needs}"

    def _begin(self, seconds: float) -> Sequence[tuple[str, What]]:
        """Come to where it has started; return what is told of the waiting, if anything."""
        if not ray.wait([self._placed], timeout=WAIT_SECONDS)[0]:
            self._has_waited = True
            return self._tell_all(self._waits)
        if self._has_waited:
            self._has_waited = False
            return self._tell_all("")
        self._node = ray.get(self._started, timeout=seconds)
        return []

    def _tell_all(self, cause: str) -> Sequence[tuple[str, What]]:
        what = StateChanged(state=RunState.RUNNING, cause=cause)
        return [(run_id, what) for run_id in self._training]

    def _hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        receipts, self._receipts = self._receipts, []
        answer = self._hand.hear.remote(receipts, seconds)
        told: Sequence[tuple[str, What | None]] = ray.get(answer, timeout=seconds + REPLY_SECONDS)
        self._training = [run_id for run_id in self._training if (run_id, None) not in told]
        self._owing = {run_id for run_id, what in told if what is not None}
        return [(run_id, self._with_node(what)) for run_id, what in told]

    def _with_node(self, what: What | None) -> What | None:
        """Say where it was, of what went wrong there."""
        if isinstance(what, StateChanged) and what.state is not RunState.RUNNING and what.cause:
            return replace(what, cause=f"{what.cause} (on node {self._node})")
        return what

    def _lose(self, error: RayError) -> Sequence[tuple[str, What | None]]:
        """Take all runs as having left, since there is no actor any more."""
        end_actor(self._hand)
        self._hands.let_all_go()
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
        with self._taking:
            self._is_unwanted = True
            end_actor(self._hand)

    def end(self, seconds: float) -> StateChanged:
        """Ask the actor how the process ended; it is free for another then."""
        if self._lost is not None:
            return self._lost
        try:
            answer = self._hand.end.remote(seconds)
            end: StateChanged = ray.get(answer, timeout=seconds + REPLY_SECONDS)
        except RayError as error:
            self._lose(error)
            assert self._lost is not None
            return self._lost
        self._hands.give_back(self._hand)
        return replace(end, cause=end.cause and f"{end.cause} (on node {self._node})")


def _end_by(error: RayError, node: str) -> StateChanged:
    """Return what becomes of runs whose actor ended by an error."""
    if isinstance(error, RayTaskError):
        # What was raised there: a node that is not as it should be fails the run with the reason.
        is_final = isinstance(error.cause, AgentError)
        state = RunState.FAILED if is_final else RunState.QUEUED
        return StateChanged(state=state, cause=str(error.cause))
    *_, reason = str(error).strip().splitlines() or ["?"]
    place = f"on node {node} " if node else ""
    cause = f"its process {place}is lost: {reason.strip().split('. ')[0]}"
    return StateChanged(state=RunState.QUEUED, cause=cause)
