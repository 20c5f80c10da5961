"""One run of a training by several processes: rank 0 talks to the agent, all apply its action."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import distributed
from torch.distributed import distributed_c10d

from agent_service.client.delivery import Apart, Delivery, named
from agent_service.domain.errors import AgentError, invalid
from agent_service.v1 import agent_pb2 as pb

T = TypeVar("T")
log = logging.getLogger("agent_service.client")

MEETING_SECONDS = 120.0
"""How long a rank waits for another, and no longer than half of torch.distributed's timeout: one
that never comes may itself be waiting for this rank, in a collective of the script."""
QUIET_SECONDS = 10.0
"""After how long the log says for whom it waits."""
_LEFT = "left"

_begun: Counter[str] = Counter()
"""How many runs of each name this process has begun: each has keys of its own."""


def are_several() -> bool:
    """Return whether torch.distributed joins this process with others."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Raise Apart where the store fails, since the process that serves it has ended."""
    try:
        yield
    except RuntimeError as error:
        raise Apart(f"torch.distributed's store fails: {error}") from error


class Ranks:
    """The processes of a training, which meet for one run.

    They meet by torch.distributed's store. Its collectives are the script's: one of ours would pair
    with whatever another rank calls next.
    """

    def __init__(self, name: str) -> None:
        """Join the other ranks that begin a run of the same name, in the same order."""
        store: Any = distributed_c10d._get_default_store()
        self._store: Any = self._next_place(name, store)
        self._seconds = min(MEETING_SECONDS, store.timeout.total_seconds() / 2)
        self.rank = distributed.get_rank()
        self._others = range(1, distributed.get_world_size())
        self._name = name
        self._meetings = 0
        self._told: list[str] = []
        """Keys of the last meeting, which all ranks have read once they come to the next one."""

    @staticmethod
    def _next_place(name: str, store: Any) -> Any:
        """Return where this run's ranks meet: after those that some rank has left already."""
        while True:
            _begun[name] += 1
            place = distributed_c10d.PrefixStore(
                f"reinforced-regularization/{name}/{_begun[name]}", store
            )
            if not place.check([_LEFT]):
                return place

    def of_rank_0(self, make: Callable[[], T]) -> T:
        """Return on every rank what `make` returns on rank 0, where alone it runs; raise likewise.

        Raises:
            Apart: the ranks did not meet.
        """
        return self._meet("value", [], lambda _told: make())

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """Return the mean of each number over all ranks.

        Raises:
            Apart: the ranks did not meet.
            InvalidArgument: they do not give equally many numbers.
        """
        return self._meet("mean", [float(number) for number in numbers], _mean)

    def leave(self) -> None:
        """Let nobody wait for this rank any more.

        The store is let go of: a process group that the script makes next is to have another.
        """
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(RuntimeError):  # whoever serves the store has ended
                store.set(_LEFT, str(self.rank))

    def _meet(self, kind: str, own: list[float], make: Callable[[list[list[float]]], T]) -> T:
        """Return on every rank what rank 0 makes of what each of them tells."""
        if self._store is None:
            raise Apart("this rank has left it")
        self._meetings += 1
        place = f"{self._meetings}/{kind}"
        keys = [f"{place}/{rank}" for rank in self._others]
        if self.rank:
            self._set(keys[self.rank - 1], json.dumps(own))
            (told,) = self._wait([place])
            result, error = pickle.loads(told)
        else:
            others = [json.loads(numbers) for numbers in self._wait(keys)]
            self._forget_told()
            result, error = _tried(lambda: make([own, *others]))
            self._set(place, pickle.dumps((result, error)))
            self._told = [place, *keys]
        if error is not None:
            raise error
        given: T = result
        return given

    @_apart()
    def _set(self, key: str, told: Any) -> None:
        self._store.set(key, told)

    @_apart()
    def _forget_told(self) -> None:
        for key in self._told:  # the store is in the memory of one of the ranks
            self._store.delete_key(key)

    @_apart()
    def _wait(self, keys: list[str]) -> list[bytes]:
        """Return what stands at each of the keys, once all are there; look ever less often.

        The store's own wait would keep others from it, such as the watchdog of collectives.
        """
        began = time.monotonic()
        is_said = False
        while not self._store.check(keys):
            waited = time.monotonic() - began
            # What was told before a rank left still counts.
            if self._store.check([_LEFT]) and not self._store.check(keys):
                left = self._store.get(_LEFT).decode()
                raise Apart(f"rank {left} has left it; let all ranks report equally many chunks")
            if waited > self._seconds:
                raise Apart(
                    f"{self._missing(keys)} did not come within {self._seconds:.0f} s; begin the "
                    "run and report its chunks on every rank, after equally many steps"
                )
            if waited > QUIET_SECONDS and not is_said:
                is_said = True
                log.warning(
                    "%s waits for %s: does every rank begin the run, and report its chunks?",
                    named(self._name),
                    self._missing(keys),
                )
            time.sleep(min(0.0005 + waited / 4, 0.05))
        return [self._store.get(key) for key in keys]

    def _missing(self, keys: list[str]) -> str:
        """Return who has not told yet, as text."""
        if self.rank:
            return "rank 0"
        told = zip(self._others, keys, strict=True)
        missing = [str(rank) for rank, key in told if not self._store.check([key])]
        return f"rank {', '.join(missing[:10])}"


def _mean(told: list[list[float]]) -> list[float]:
    if len({len(numbers) for numbers in told}) > 1:
        raise invalid("losses", "the ranks of the training give different numbers of them")
    return [sum(numbers) / len(told) for numbers in zip(*told, strict=True)]


def _tried(make: Callable[[], T]) -> tuple[T | None, AgentError | None]:
    try:
        return make(), None
    except AgentError as error:
        return None, error


class SharedDelivery:
    """Reports the mean of all ranks, once, and gives the answer to each of them.

    Ranks meet as the run begins and where a chunk is reported: a run may end on one of them alone,
    by an exception or by its own last step, and no other waits for it.
    """

    is_shared = True

    def __init__(self, delivery: Delivery, ranks: Ranks) -> None:
        """Send by `delivery` on rank 0."""
        self._delivery = delivery
        self._ranks = ranks

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the ranks' mean; every rank calls this with its own numbers of the same chunk."""
        return self._ranks.mean(numbers)

    def send(self, request: Any) -> Any:
        """Send a call from rank 0, and give every rank the answer; every rank calls this."""
        return self._ranks.of_rank_0(lambda: self._delivery.send(request))

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end from rank 0; no rank waits for another."""
        self._ranks.leave()
        if not self._ranks.rank:
            self._delivery.finish(request, is_best_effort=is_best_effort)

    def flush(self) -> None:
        """Deliver from rank 0 what still waits; no rank waits for another."""
        self._ranks.leave()
        if not self._ranks.rank:
            self._delivery.flush()
