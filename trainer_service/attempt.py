"""One start of a process that trains runs: what it tells is passed on, until each has left it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext

from trainer_service.config import TrainerConfig
from trainer_service.link import CANCEL, HAND_BACK, Listener
from trainer_service.process import train_runs
from trainer_service.run import Run, RunState, StateChanged, What


class Attempt:
    """A process that trains runs, until `follow` returns."""

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
        self._places = {run.id: place for place, run in enumerate(runs)}
        self._cancels = context.RawArray("b", len(runs))
        theirs = [pipe for _, pipe in pipes]
        self._process = context.Process(
            target=train_runs, args=(runs, parents, config, theirs, self._cancels), name=runs[0].id
        )
        self._cause = ""
        """Why it did not start."""
        try:
            self._process.start()
        except (OSError, EOFError) as error:
            self._cause = f"its process cannot start: {type(error).__name__} {error}".rstrip()
        self._is_alive = not self._cause
        for pipe in theirs:
            pipe.close()

    def cancel(self, run_id: str) -> None:
        """Ask it to end a run: at once where it trains alone, else at its chunk's end."""
        self._cancels[self._places[run_id]] = 1
        self._signal(CANCEL)

    def hand_back(self) -> None:
        """Ask it to keep a checkpoint of each run at its chunk's end, and to end."""
        self._signal(HAND_BACK)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._is_alive:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def follow(
        self,
        happened: Callable[[str, What], None],
        left: Callable[[str, StateChanged], None],
        *,
        stall_seconds: float,
    ) -> None:
        """Pass on what happens until the process is gone.

        Args:
            happened: told what happens in a run.
            left: told, once a run, the state that the process left it in: QUEUED where it should
                go on, with the cause if something is wrong.
            stall_seconds: a process that tells nothing for so long is killed.
        """
        silent, is_stalled = self._hear_all(happened, left, stall_seconds)
        end = self._end(stall_seconds)
        if is_stalled:
            cause = f"it made no progress for {stall_seconds:g} s"
            end = StateChanged(state=RunState.QUEUED, cause=cause)
        for run_id in silent:
            left(run_id, end)

    def _hear_all(
        self,
        happened: Callable[[str, What], None],
        left: Callable[[str, StateChanged], None],
        stall_seconds: float,
    ) -> tuple[Sequence[str], bool]:
        """Hear until all have left; return who told no end, and whether the process was killed."""
        by_pipe = {listener.pipe: run_id for run_id, listener in self._listeners.items()}
        ends: dict[str, StateChanged] = {}
        silent: list[str] = []
        is_stalled = False
        while by_pipe:
            ready = wait(list(by_pipe), stall_seconds)
            if not ready:
                is_stalled = True
                self.kill()
            for pipe in ready:
                assert isinstance(pipe, Connection)
                run_id = by_pipe[pipe]
                what = self._listeners[run_id].hear()
                if what is None:
                    del by_pipe[pipe]
                    if run_id in ends:
                        left(run_id, ends[run_id])
                    else:
                        silent.append(run_id)
                elif isinstance(what, StateChanged) and what.state is not RunState.RUNNING:
                    ends[run_id] = what
                else:
                    happened(run_id, what)
                    self._listeners[run_id].acknowledge()
        return silent, is_stalled

    def _end(self, stall_seconds: float) -> StateChanged:
        """Wait until the process is gone; return what becomes of a run that it told no end of."""
        if self._cause:
            return StateChanged(state=RunState.QUEUED, cause=self._cause)
        self._process.join(stall_seconds)
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
