"""Processes of runs on this machine, forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext

from agent_service.lifeline import shielding_from_interrupts
from trainer_service.config import TrainerConfig
from trainer_service.run import Run, RunState, StateChanged, What
from trainer_service.workers.link import CANCEL, HAND_BACK, Listener

PRELOAD = ["trainer_service.workers.process"]
"""What processes have imported when they start: torch alone takes seconds."""


class LocalExecutor:
    """Starts processes on this machine."""

    def __init__(self, config: TrainerConfig) -> None:
        """Start nothing yet.

        Args:
            config: the service's.
        """
        self._config = config
        # The server process imports torch once; each other is forked from it.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> LocalProcess:
        """Start a process; see `Executor`."""
        return LocalProcess(self._context, runs, parents, self._config)

    def describe(self) -> str:
        """Return the device in words; raises AgentError where it is not there."""
        # Who only starts processes need not import torch.
        from trainer_service.training.device import describe_device, find_device

        return describe_device(find_device(self._config.device))

    def close(self) -> None:
        """Do nothing: the server process ends with this one."""


class LocalProcess:
    """A process that trains runs on this machine; see `Process`."""

    def __init__(
        self,
        context: ForkServerContext,
        runs: Sequence[Run],
        parents: Mapping[str, Run],
        config: TrainerConfig,
    ) -> None:
        """Start it; where the machine has no room for another process, it has ended already.

        Args:
            context: starts processes.
            runs: to train.
            parents: of those that go on from another run, by their id.
            config: the service's.
        """
        pipes = [context.Pipe() for _ in runs]
        self._listeners = {
            run.id: Listener(ours) for run, (ours, _) in zip(runs, pipes, strict=True)
        }
        self._by_pipe = {listener.pipe: run_id for run_id, listener in self._listeners.items()}
        """Of those that have not left."""
        self._places = {run.id: place for place, run in enumerate(runs)}
        self._cancels = context.RawArray("b", len(runs))
        theirs = [pipe for _, pipe in pipes]
        self._process = context.Process(
            target=_train_runs,
            args=(runs, parents, config, theirs, self._cancels),
            name=runs[0].id,
        )
        self._cause = ""
        """Why it did not start."""
        try:
            with shielding_from_interrupts():  # the fork server, too, which starts with the first
                self._process.start()
        except (OSError, EOFError) as error:
            self._cause = f"its process cannot start: {type(error).__name__} {error}".rstrip()
        self._is_alive = not self._cause
        for pipe in theirs:
            pipe.close()

    def hear(self, seconds: float) -> Sequence[tuple[str, What | None]]:
        """Return what was told, by one message of each run that told something."""
        told = []
        for pipe in wait(list(self._by_pipe), seconds):
            assert isinstance(pipe, Connection)
            run_id = self._by_pipe[pipe]
            what = self._listeners[run_id].hear()
            if what is None:
                del self._by_pipe[pipe]
            told.append((run_id, what))
        return told

    def acknowledge(self, run_id: str) -> None:
        """Send a receipt."""
        self._listeners[run_id].acknowledge()

    def cancel(self, run_id: str) -> None:
        """Mark the run, and tell the process that one is marked."""
        self._cancels[self._places[run_id]] = 1
        self._signal(CANCEL)

    def hand_back(self) -> None:
        """Tell the process."""
        self._signal(HAND_BACK)

    def kill(self) -> None:
        """Kill it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._is_alive:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def end(self, seconds: float) -> StateChanged:
        """Wait for its end; tell a crash by the exit code."""
        if self._cause:
            return StateChanged(state=RunState.QUEUED, cause=self._cause)
        self._process.join(seconds)
        self.kill()  # only what hangs after its last word is there still
        self._process.join()
        self._is_alive = False
        exit_code = self._process.exitcode
        self._process.close()
        if exit_code in (-CANCEL, -HAND_BACK):
            # Before it could listen to that signal; the service knows which run it was to end.
            return StateChanged(state=RunState.QUEUED)
        hint = " (SIGKILL: perhaps the machine is out of memory)" if exit_code == -9 else ""
        cause = f"its process ended without a word, exit code {exit_code}{hint}"
        return StateChanged(state=RunState.QUEUED, cause=cause)


def _train_runs(*arguments: object) -> None:
    """Train runs in their process; who only starts processes need not import torch for it."""
    from trainer_service.workers.process import train_runs

    train_runs(*arguments)  # type: ignore[arg-type]  # as `LocalProcess` gives them
