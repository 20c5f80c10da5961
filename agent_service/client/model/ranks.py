"""One run in a distributed training: rank 0 calls the agent, all ranks apply its action."""

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

from agent_service.client.delivery import Delivery, RankMissing, named
from agent_service.domain.errors import AgentError, invalid
from agent_service.v1 import agent_pb2 as pb

T = TypeVar("T")
log = logging.getLogger("agent_service.client")

MEETING_SECONDS = 120.0
"""How long a rank waits for another, but at most half of torch.distributed's timeout: the missing
rank may itself be waiting for this one, in one of the script's collectives."""
QUIET_SECONDS = 10.0
"""Time after which the log names the rank that is missing."""
_LEFT = "left"

_begun: Counter[str] = Counter()
"""Runs of each name that this process has started: each uses its own keys."""


def is_distributed() -> bool:
    """Return whether torch.distributed connects this process with others."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


@contextlib.contextmanager
def _store_failing() -> Iterator[None]:
    """Raise RankMissing if the store fails, since the process that serves it has ended."""
    try:
        yield
    except RuntimeError as error:
        raise RankMissing(f"torch.distributed's store fails: {error}") from error


class Ranks:
    """Synchronizes the processes of a distributed training for one run.

    By torch.distributed's store, not by collectives: one of ours would pair with whatever
    collective another rank calls next.
    """

    def __init__(self, name: str) -> None:
        """Join the other ranks that start a run of the same name, in the same order."""
        store: Any = distributed_c10d._get_default_store()
        self._store: Any = self._next_place(name, store)
        self._seconds = min(MEETING_SECONDS, store.timeout.total_seconds() / 2)
        self.rank = distributed.get_rank()
        self._others = range(1, distributed.get_world_size())
        self._name = name
        self._meetings = 0
        self._used_keys: list[str] = []
        """Keys of the last meeting, which all ranks have read when they come to the next one."""

    @staticmethod
    def _next_place(name: str, store: Any) -> Any:
        """Return the store of this run's keys, skipping runs that a rank has already left."""
        while True:
            _begun[name] += 1
            place = distributed_c10d.PrefixStore(
                f"reinforced-regularization/{name}/{_begun[name]}", store
            )
            if not place.check([_LEFT]):
                return place

    def of_rank_0(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 only; return its result, or raise its error, on every rank.

        Raises:
            RankMissing: a rank did not take part.
        """
        return self._meet("value", [], lambda _numbers: make())

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """Return the mean of each number over all ranks.

        Raises:
            RankMissing: a rank did not take part.
            InvalidArgument: the ranks give different counts of numbers.
        """
        return self._meet("mean", [float(number) for number in numbers], _mean)

    def leave(self) -> None:
        """Stop other ranks from waiting for this one.

        Drops the store, since the script's next process group must get another one.
        """
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(RuntimeError):  # the process that served the store has ended
                store.set(_LEFT, str(self.rank))

    def _meet(self, kind: str, own: list[float], make: Callable[[list[list[float]]], T]) -> T:
        """Collect every rank's numbers on rank 0, and return `make`'s result on every rank."""
        if self._store is None:
            raise RankMissing("this rank has left it")
        self._meetings += 1
        place = f"{self._meetings}/{kind}"
        keys = [f"{place}/{rank}" for rank in self._others]
        if self.rank:
            self._set(keys[self.rank - 1], json.dumps(own))
            (answer,) = self._wait([place])
            result, error = pickle.loads(answer)
        else:
            others = [json.loads(numbers) for numbers in self._wait(keys)]
            self._delete_used_keys()
            result, error = _tried(lambda: make([own, *others]))
            self._set(place, pickle.dumps((result, error)))
            self._used_keys = [place, *keys]
        if error is not None:
            raise error
        made: T = result
        return made

    @_store_failing()
    def _set(self, key: str, value: Any) -> None:
        self._store.set(key, value)

    @_store_failing()
    def _delete_used_keys(self) -> None:
        for key in self._used_keys:  # the store is in the memory of one of the ranks
            self._store.delete_key(key)

    @_store_failing()
    def _wait(self, keys: list[str]) -> list[bytes]:
        """Return the values of the keys once all are set; poll ever less often.

        The store's own wait would block others from it, such as the watchdog of collectives.
        """
        began = time.monotonic()
        is_logged = False
        while not self._store.check(keys):
            waited = time.monotonic() - began
            # Values that were set before a rank left still count.
            if self._store.check([_LEFT]) and not self._store.check(keys):
                left = self._store.get(_LEFT).decode()
                raise RankMissing(
                    f"rank {left} has left it; report equally many chunks on all ranks"
                )
            if waited > self._seconds:
                raise RankMissing(
                    f"{self._missing(keys)} did not arrive within {self._seconds:.0f} s; start the "
                    "run and report its chunks on every rank, after equally many steps"
                )
            if waited > QUIET_SECONDS and not is_logged:
                is_logged = True
                log.warning(
                    "%s waits for %s: does every rank start the run, and report its chunks?",
                    named(self._name),
                    self._missing(keys),
                )
            time.sleep(min(0.0005 + waited / 4, 0.05))
        return [self._store.get(key) for key in keys]

    def _missing(self, keys: list[str]) -> str:
        """Return the missing ranks, as text."""
        if self.rank:
            return "rank 0"
        others = zip(self._others, keys, strict=True)
        missing = [str(rank) for rank, key in others if not self._store.check([key])]
        return f"rank {', '.join(missing[:10])}"


def _mean(ranks: list[list[float]]) -> list[float]:
    if len({len(numbers) for numbers in ranks}) > 1:
        raise invalid("losses", "the ranks of the training give different numbers of them")
    return [sum(numbers) / len(ranks) for numbers in zip(*ranks, strict=True)]


def _tried(make: Callable[[], T]) -> tuple[T | None, AgentError | None]:
    try:
        return make(), None
    except AgentError as error:
        return None, error


class SharedDelivery:
    """Reports the mean over all ranks once, and passes the answer to each of them.

    Ranks synchronize when the run starts and when a chunk is reported. A run may end on one rank
    alone, by an exception or its own last step, and no other rank waits for it.
    """

    is_shared = True

    def __init__(self, delivery: Delivery, ranks: Ranks) -> None:
        """Send through `delivery` on rank 0."""
        self._delivery = delivery
        self._ranks = ranks

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """Return the mean over ranks; each calls this with its own numbers for the same chunk."""
        return self._ranks.mean(numbers)

    def send(self, request: Any) -> Any:
        """Send a call from rank 0 and return its answer on every rank; every rank calls this."""
        return self._ranks.of_rank_0(lambda: self._delivery.send(request))

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Send the run's end from rank 0; ranks do not wait for each other."""
        self._ranks.leave()
        if not self._ranks.rank:
            self._delivery.finish(request, is_best_effort=is_best_effort)

    def flush(self) -> None:
        """Deliver queued calls from rank 0; ranks do not wait for each other."""
        self._ranks.leave()
        if not self._ranks.rank:
            self._delivery.flush()
