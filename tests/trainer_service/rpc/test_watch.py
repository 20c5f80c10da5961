"""Watching a run that ends at the worst moment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.trainer_service.specs import run_spec
from tests.trainer_service.test_store import FINISHED
from trainer_service import convert
from trainer_service.rpc.servicer import TrainerServicer
from trainer_service.run import Event, Run, RunState, StateChanged
from trainer_service.runs import Runs
from trainer_service.store import RunStore
from trainer_service.v1 import trainer_pb2 as pb


class EndingStore(RunStore):
    """A real store in which the run ends right after the n-th time that somebody looked."""

    def __init__(self, path: Path, *, looks: int) -> None:
        super().__init__(path)
        self._left = looks
        self.add("r", run_spec())

    def _look(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.append("r", FINISHED)
            self.append("r", StateChanged(state=RunState.SUCCEEDED))

    def get(self, run_id: str) -> Run:
        run = self.find(run_id)
        assert run is not None
        self._look()
        return run

    def events(self, run_id: str, *, after: int) -> Sequence[Event]:
        events = super().events(run_id, after=after)
        self._look()
        return events


@pytest.mark.parametrize("looks", range(1, 8))
def test_a_watcher_sees_the_end_whenever_it_comes(tmp_path: Path, looks: int) -> None:
    """Between any two looks at state and events the run may end: its result is never missed."""

    async def pause(_seconds: float) -> None:
        await asyncio.sleep(0)

    async def watch(store: EndingStore) -> list[Event]:
        # The store stands in for the queue, of which the servicer asks for the run only.
        servicer = TrainerServicer(cast(Runs, store), store, device=pb.Device(), pause=pause)
        context = cast(Any, None)
        stream = servicer.WatchRun(pb.WatchRunRequest(run_id="r"), context)
        return [convert.event_from_message(answer.event) async for answer in stream]

    store = EndingStore(tmp_path / "runs.db", looks=looks)
    events = asyncio.run(watch(store))
    store.close()

    assert [e.index for e in events] == [1, 2, 3]
    assert [e.what for e in events[1:]] == [FINISHED, StateChanged(state=RunState.SUCCEEDED)]
