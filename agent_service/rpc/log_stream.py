"""Streams of the log: pages that are small in memory, and one look for all who wait for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

LOG_PAGE = 50
"""Transitions read at once, fewer where they are long; as fast as 500."""
LOOK_SECONDS = 0.1
"""How often the store is looked at for what followers wait for, whoever wrote it."""
READ_AGAIN_SECONDS = 60.0
"""After so long a follower reads although nothing came: its run may be pruned since."""

_Which = tuple[str, str]
"""A controller's name and a run's id, each empty for all."""


@dataclass(slots=True, eq=False)
class _Follower:
    which: _Which
    after: int
    """It has read up to this position."""
    more: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class _Page:
    responses: Sequence[pb.StreamTransitionsResponse]
    reached: int
    is_last: bool


class LogStreams:
    """All streams of one server; of its event loop only."""

    def __init__(
        self, run_service: RunService, *, pause: Callable[[float], Awaitable[None]]
    ) -> None:
        """Read by `run_service`; `pause` is the server's, which raises when it drains."""
        self._run_service = run_service
        self._pause = pause
        self._followers: set[_Follower] = set()
        self._looking: asyncio.Task[None] | None = None
        self._pages: dict[tuple[_Which, int], asyncio.Task[_Page]] = {}

    async def answer(
        self, request: pb.StreamTransitionsRequest
    ) -> AsyncIterator[pb.StreamTransitionsResponse]:
        """Yield the transitions that a request asks for, and those to come if it follows."""
        which, position = (request.controller, request.run_id), request.after_position
        while True:
            page = await self._page(which, position)
            for response in page.responses:
                yield response
            position = max(position, page.reached)
            if page.is_last:
                if not request.follow:
                    return
                position = await self._wait(which, position)

    async def _page(self, which: _Which, after: int) -> _Page:
        """Read a page in another thread, once for all who want the same at the same time."""
        key = which, after
        if (reading := self._pages.get(key)) is None:
            reading = asyncio.create_task(asyncio.to_thread(self._read, which, after))
            reading.add_done_callback(partial(self._has_read, key))
            self._pages[key] = reading
        await asyncio.wait([reading])  # where this one leaves, the others wait on
        return reading.result()

    def _has_read(self, key: tuple[_Which, int], reading: asyncio.Task[_Page]) -> None:
        del self._pages[key]
        if not reading.cancelled():
            reading.exception()  # else asyncio logs the failure of a read that all have left

    def _read(self, which: _Which, after: int) -> _Page:
        controller, run_id = which
        page = self._run_service.transitions(
            controller=controller, run_id=run_id, after=after, limit=LOG_PAGE
        )
        responses = [
            pb.StreamTransitionsResponse(transition=convert.transition_to_message(run, transition))
            for run, transition in page.transitions
        ]
        return _Page(responses, page.reached, page.is_last)

    async def _wait(self, which: _Which, after: int) -> int:
        """Wait until there is more after a position; return the one to read on from.

        Raises:
            Unavailable: the server drains, or the store cannot be read.
        """
        follower = _Follower(which, after)
        self._followers.add(follower)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(READ_AGAIN_SECONDS):
                await follower.more
        except TimeoutError:
            pass
        finally:
            self._followers.discard(follower)
        return follower.after

    async def _look(self) -> None:
        """Look for more for as long as somebody waits for it."""
        try:
            while self._followers:
                await self._pause(LOOK_SECONDS)
                await self._wake()
        except Exception as error:  # whatever it is, nobody is to wait for what nobody looks for
            for follower in self._followers:
                if not follower.more.done():
                    follower.more.set_exception(error)

    async def _wake(self) -> None:
        """Wake those for whom something was appended; the others have read up to there, too."""
        followers = list(self._followers)  # who joins meanwhile may be behind them
        after = min((f.after for f in followers), default=0)
        new = await asyncio.to_thread(self._run_service.appended, after=after)
        newest: dict[_Which, int] = {}
        for entry in new:
            for controller in ("", entry.controller):
                newest[controller, ""] = newest[controller, entry.run_id] = entry.position
        for follower in followers:
            if newest.get(follower.which, 0) <= follower.after:
                follower.after = max(follower.after, new[-1].position if new else 0)
            elif not follower.more.done():
                follower.more.set_result(None)
