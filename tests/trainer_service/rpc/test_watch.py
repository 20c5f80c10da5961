"""WatchRun: a run that ends at any moment, and one that stays queued."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from tests.trainer_service.runs.test_store import FINISHED
from tests.trainer_service.specs import run_spec
from trainer_service.rpc import convert
from trainer_service.rpc.servicer import TrainerServicer
from trainer_service.runs.queue import RunQueue
from trainer_service.runs.run import Event, Run, RunState, StateChanged
from trainer_service.runs.store import RunStore
from trainer_service.v1 import trainer_pb2 as pb

NEVER = -1


class EndingStore(RunStore):
    """A real store whose run ends right after the `looks`-th read."""

    def __init__(self, path: Path, *, looks: int) -> None:
        super().__init__(path)
        self._left = looks
        self.reads = 0
        self.add("r", run_spec())

    def end(self) -> None:
        """End the run."""
        self.append("r", FINISHED)
        self.append("r", StateChanged(state=RunState.SUCCEEDED))

    def _look(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.end()

    def get(self, run_id: str) -> Run:
        run = self.find(run_id)
        assert run is not None
        self._look()
        return run

    def revision(self, run_id: str) -> int:
        revision = super().revision(run_id)
        self._look()
        return revision

    def events(self, run_id: str, *, after: int) -> Sequence[Event]:
        events = super().events(run_id, after=after)
        self.reads += 1
        self._look()
        return events


async def watch(store: EndingStore, pause: Callable[[float], Awaitable[None]]) -> list[Event]:
    """Watch the run from its first event to its end."""
    # The store replaces the queue, of which the servicer uses `get` only.
    servicer = TrainerServicer(cast(RunQueue, store), store, device=pb.Device(), pause=pause)
    stream = servicer.WatchRun(pb.WatchRunRequest(run_id="r"), cast(Any, None))
    return [convert.event_from_message(answer.event) async for answer in stream]


@pytest.mark.parametrize("looks", range(1, 12))
def test_a_watcher_sees_the_end_whenever_it_comes(tmp_path: Path, looks: int) -> None:
    """The run may end between any two reads of state and events; its result is never missed."""

    async def pause(_seconds: float) -> None:
        await asyncio.sleep(0)

    with closing(EndingStore(tmp_path / "runs.db", looks=looks)) as store:
        events = asyncio.run(watch(store, pause))

    assert [e.index for e in events] == [1, 2, 3]
    assert [e.what for e in events[1:]] == [FINISHED, StateChanged(state=RunState.SUCCEEDED)]


def test_a_watcher_of_a_run_that_waits_reads_nothing(tmp_path: Path) -> None:
    """Studies watch hundreds of queued runs: one read at first, and one after an event."""
    pauses = 0

    with closing(EndingStore(tmp_path / "runs.db", looks=NEVER)) as store:

        async def pause(_seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            if pauses == 100:
                assert store.reads == 1
                store.end()

        events = asyncio.run(watch(store, pause))

        assert store.reads == 2

    assert events[-1].what == StateChanged(state=RunState.SUCCEEDED)
