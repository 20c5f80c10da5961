"""One start of a run's process: what it tells is passed on, until it ends one way or another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext

from trainer_service.link import CANCEL, HAND_BACK, Listener
from trainer_service.process import Place, train_run
from trainer_service.run import Run, RunState, StateChanged, What


class Attempt:
    """A process that trains a run, until `follow` returns."""

    def __init__(self, context: ForkServerContext, run: Run, place: Place) -> None:
        """Start it; where the machine has no room for another process, it has ended already."""
        ours, theirs = context.Pipe()
        self._listener = Listener(ours)
        self._process = context.Process(target=train_run, args=(run, place, theirs), name=run.id)
        self._cause = ""
        """Why it did not start."""
        try:
            self._process.start()
        except (OSError, EOFError) as error:
            self._cause = f"its process cannot start: {type(error).__name__} {error}".rstrip()
        self._is_alive = not self._cause
        theirs.close()

    def cancel(self) -> None:
        """Ask it to end the run."""
        self._signal(CANCEL)

    def hand_back(self) -> None:
        """Ask it to keep a checkpoint at its chunk's end, and to end."""
        self._signal(HAND_BACK)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._is_alive:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def follow(self, happened: Callable[[What], None], *, stall_seconds: float) -> StateChanged:
        """Pass on what happens until the process is gone; return the state that it left the run in.

        That is QUEUED where the run should go on, with the cause if something is wrong. A process
        that tells nothing for `stall_seconds` is killed.
        """
        last: StateChanged | None = None
        is_stalled = False
        with self._listener as listener:
            while True:
                try:
                    what = listener.hear(stall_seconds)
                except TimeoutError:
                    is_stalled = True
                    self.kill()
                    continue
                if what is None:
                    break
                if isinstance(what, StateChanged) and what.state is not RunState.RUNNING:
                    last = what
                else:
                    happened(what)
                    listener.acknowledge()
        if self._cause:
            return StateChanged(state=RunState.QUEUED, cause=self._cause)
        self._process.join()
        self._is_alive = False
        exit_code = self._process.exitcode
        self._process.close()
        if is_stalled:
            cause = f"it made no progress for {stall_seconds:g} s"
            return StateChanged(state=RunState.QUEUED, cause=cause)
        return last or _sudden_end(exit_code)


def _sudden_end(exit_code: int | None) -> StateChanged:
    """Return what becomes of a run whose process told no end."""
    if exit_code == -CANCEL:
        # Cancelled before it could listen to that signal; so for the next one.
        return StateChanged(state=RunState.CANCELLED)
    if exit_code == -HAND_BACK:
        return StateChanged(state=RunState.QUEUED)
    hint = " (SIGKILL: perhaps the machine is out of memory)" if exit_code == -9 else ""
    cause = f"its process ended without a word, exit code {exit_code}{hint}"
    return StateChanged(state=RunState.QUEUED, cause=cause)
