"""Run processes on this machine, forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext

from agent_service.shutdown import shielding_from_interrupts
from trainer_service.config import TrainerConfig
from trainer_service.runs.run import EventContent, Run, RunState, StateChanged
from trainer_service.workers.pipe import CANCEL, PREEMPT, EventReceiver

PRELOAD = ["trainer_service.workers.worker"]
"""Modules that processes have imported when they start: torch alone takes seconds."""


class LocalExecutor:
    """Starts run processes on this machine."""

    def __init__(self, config: TrainerConfig) -> None:
        """Prepare the fork server, which starts with the first process."""
        self._config = config
        # The server process imports torch once; the others are forked from it.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, runs: Sequence[Run], parents: Mapping[str, Run]) -> LocalProcess:
        """Start a process that trains `runs`."""
        return LocalProcess(self._context, runs, parents, self._config)

    def describe(self) -> str:
        """Return a description of the device; raises AgentError if it does not exist."""
        # Imported here: starting processes needs no torch.
        from trainer_service.training.child.execution import describe_device, find_device

        return describe_device(find_device(self._config.device))

    def close(self) -> None:
        """Do nothing: the server process ends with this one."""


class LocalProcess:
    """A process on this machine that trains runs."""

    def __init__(
        self,
        context: ForkServerContext,
        runs: Sequence[Run],
        parents: Mapping[str, Run],
        config: TrainerConfig,
    ) -> None:
        """Start the process; if the operating system refuses, it counts as ended."""
        pipes = [context.Pipe() for _ in runs]
        self._receivers = {
            run.id: EventReceiver(ours) for run, (ours, _) in zip(runs, pipes, strict=True)
        }
        self._by_pipe = {receiver.pipe: run_id for run_id, receiver in self._receivers.items()}
        """Run ids by pipe, of the runs that have not left."""
        self._places = {run.id: place for place, run in enumerate(runs)}
        self._cancels = context.RawArray("b", len(runs))
        theirs = [pipe for _, pipe in pipes]
        self._process = context.Process(
            target=_train_runs,
            args=(runs, parents, config, theirs, self._cancels),
            name=runs[0].id,
        )
        self._cause = ""
        """Why the process did not start."""
        try:
            with shielding_from_interrupts():  # the fork server, too, which starts with the first
                self._process.start()
        except (OSError, EOFError) as error:
            self._cause = f"its process cannot start: {type(error).__name__} {error}".rstrip()
        self._is_alive = not self._cause
        for pipe in theirs:
            pipe.close()

    def receive(self, seconds: float) -> Sequence[tuple[str, EventContent | None]]:
        """Return one event of each run that sent any within `seconds`."""
        received = []
        for pipe in wait(list(self._by_pipe), seconds):
            assert isinstance(pipe, Connection)
            run_id = self._by_pipe[pipe]
            what = self._receivers[run_id].receive()
            if what is None:
                del self._by_pipe[pipe]
            received.append((run_id, what))
        return received

    def acknowledge(self, run_id: str) -> None:
        """Send a receipt."""
        self._receivers[run_id].acknowledge()

    def cancel(self, run_id: str) -> None:
        """Mark the run in the shared array, and signal the process."""
        self._cancels[self._places[run_id]] = 1
        self._signal(CANCEL)

    def preempt(self) -> None:
        """Signal the process."""
        self._signal(PREEMPT)

    def kill(self) -> None:
        """Kill the process."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._is_alive:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def join(self, seconds: float) -> StateChanged:
        """Wait for the process's end; a crash is reported with its exit code."""
        if self._cause:
            return StateChanged(state=RunState.QUEUED, cause=self._cause)
        self._process.join(seconds)
        self.kill()  # a process that hangs after its last event is still there
        self._process.join()
        self._is_alive = False
        exit_code = self._process.exitcode
        self._process.close()
        if exit_code in (-CANCEL, -PREEMPT):
            # Signalled before its handler was set; the service knows which run was cancelled.
            return StateChanged(state=RunState.QUEUED)
        hint = " (SIGKILL: perhaps the machine is out of memory)" if exit_code == -9 else ""
        cause = f"its process ended unexpectedly, exit code {exit_code}{hint}"
        return StateChanged(state=RunState.QUEUED, cause=cause)


def _train_runs(*arguments: object) -> None:
    """Train runs in their process; imported here, since starting processes needs no torch."""
    from trainer_service.workers.worker import train_runs

    train_runs(*arguments)  # type: ignore[arg-type]  # as `LocalProcess` passes them
