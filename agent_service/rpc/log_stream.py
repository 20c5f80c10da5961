"""Streams of the log: small pages, and one poll of the store for all followers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

LOG_PAGE = 50
"""Maximum number of transitions per read, fewer if they are long; as fast as 500."""
LOOK_SECONDS = 0.1
"""Interval at which the store is polled for followers, since other processes write to it, too."""
READ_AGAIN_SECONDS = 60.0
"""Time after which a follower reads even if nothing was appended: its run may have been pruned."""

_Which = tuple[str, str]
"""A controller's name and a run's id, each empty for all."""


@dataclass(slots=True, eq=False)
class _Follower:
    which: _Which
    after: int
    """The position up to which it has read."""
    more: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class _Page:
    responses: Sequence[pb.StreamTransitionsResponse]
    reached: int
    is_last: bool


class LogStreams:
    """All log streams of one server. For its event loop only."""

    def __init__(
        self, run_service: RunService, *, pause: Callable[[float], Awaitable[None]]
    ) -> None:
        """Read from `run_service`; `pause` sleeps, and raises when the server is draining."""
        self._run_service = run_service
        self._pause = pause
        self._followers: set[_Follower] = set()
        self._looking: asyncio.Task[None] | None = None
        self._pages: dict[tuple[_Which, int], asyncio.Task[_Page]] = {}

    async def answer(
        self, request: pb.StreamTransitionsRequest
    ) -> AsyncIterator[pb.StreamTransitionsResponse]:
        """Yield the requested transitions, and new ones if the request follows."""
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
        """Read a page in another thread; concurrent requests for the same page share one read."""
        key = which, after
        if (reading := self._pages.get(key)) is None:
            reading = asyncio.create_task(asyncio.to_thread(self._read, which, after))
            reading.add_done_callback(partial(self._has_read, key))
            self._pages[key] = reading
        await asyncio.wait([reading])  # if this stream is cancelled, the others keep waiting
        return reading.result()

    def _has_read(self, key: tuple[_Which, int], reading: asyncio.Task[_Page]) -> None:
        del self._pages[key]
        if not reading.cancelled():
            reading.exception()  # else asyncio logs the error of a read that nobody waits for

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
        """Wait until something is appended; return the position after which to read.

        Raises:
            Unavailable: the server is draining, or the store cannot be read.
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
        """Poll the store while there are followers."""
        try:
            while self._followers:
                await self._pause(LOOK_SECONDS)
                await self._wake()
        except Exception as error:  # of any kind: no follower may wait without a poll
            for follower in self._followers:
                if not follower.more.done():
                    follower.more.set_exception(error)

    async def _wake(self) -> None:
        """Wake the followers of what was appended, and advance the position of the others."""
        followers = list(self._followers)  # followers that join meanwhile may be further behind
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
