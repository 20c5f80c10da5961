"""Watches an agent service while it is under load: what it takes, and how its learner keeps up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError
from trainer_service.load.drive import Share
from trainer_service.load.service import Service

POLL_SECONDS = 0.1
"""Between two looks, or ten times as long as a look takes, so that watching is no load itself."""


class UpdateLag:
    """How long full rollouts wait until the policy is there that they make."""

    def __init__(self, *, rollout: int, version: int) -> None:
        """Begin.

        Args:
            rollout: transitions of one update.
            version: of the policy, at the begin.
        """
        self._rollout = rollout
        self._first = version
        self._full_since: dict[int, float] = {}
        self._filled = 0
        self.seconds: list[float] = []
        """Of each update."""

    def see(self, now: float, *, version: int, waiting: int) -> None:
        """Take the policy's version and how many transitions wait, at a moment."""
        published = version - self._first
        filled = published + waiting // self._rollout
        for number in range(self._filled + 1, filled + 1):
            self._full_since[number] = now
        self._filled = max(self._filled, filled)
        for number in range(len(self.seconds) + 1, published + 1):
            self.seconds.append(now - self._full_since.pop(number))


class Watch:
    """Looks at controller and service from time to time; a context manager."""

    def __init__(self, share: Share) -> None:
        """Watch what `share` loads; raises AgentError where it cannot be reached."""
        access = share.access
        self._client = AgentClient(share.agent, tls=access.tls, token=access.token)
        self._service = Service.listening(share.agent)
        self._name = share.controller
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.memory: dict[str, int] = {}
        """Largest resident bytes of each process."""
        self.cpu: dict[str, float] = {}
        """Seconds of a processor that each has used since the first look."""
        self._cpu_before: dict[str, float] = {}
        self.store: list[int] = []
        """Bytes, at each look."""
        self.waiting = 0
        """Largest number of transitions that waited for an update."""
        controller = self._client.get_controller(share.controller)
        self.rollout = controller.spec.ppo.rollout_size
        self._version = self._first_version = controller.policy_version
        self.lag = UpdateLag(rollout=self.rollout, version=self._version)

    @property
    def updates(self) -> int:
        """Policy versions that came since the begin."""
        return self._version - self._first_version

    def __enter__(self) -> Watch:
        self._look_at_service()  # at what is there before the load
        self._cpu_before = dict(self.cpu)
        self.cpu = dict.fromkeys(self.cpu, 0.0)
        self._looking = self._pool.submit(self._go_on_looking)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._is_over.set()
        error = self._looking.exception()
        self._pool.shutdown()
        self._client.close()
        if error is not None and kind is None:
            raise AgentError(f"the watch on the service failed: {error!r}")

    def _go_on_looking(self) -> None:
        took, is_over = 0.0, False
        while not is_over:
            is_over = self._is_over.wait(max(POLL_SECONDS, 10 * took))
            began = time.perf_counter()
            with suppress(AgentError):  # it is away, or deleted: nothing is seen of it
                self._look_at_controller()
            self._look_at_service()
            took = time.perf_counter() - began

    def _look_at_controller(self) -> None:
        controller = self._client.get_controller(self._name)
        waiting = controller.ready_transitions
        self._version = controller.policy_version
        self.waiting = max(self.waiting, waiting)
        self.lag.see(time.perf_counter(), version=self._version, waiting=waiting)

    def _look_at_service(self) -> None:
        if self._service is None:
            return
        taken = self._service.taken()
        for name, size in taken.memory.items():
            self.memory[name] = max(self.memory.get(name, 0), size)
        for name, seconds in taken.cpu.items():
            self.cpu[name] = seconds - self._cpu_before.get(name, 0.0)
        if taken.store is not None:
            self.store.append(taken.store)
