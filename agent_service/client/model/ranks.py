"""One run of a training by several processes: rank 0 talks to the agent, all apply its action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

from agent_service.client.delivery import Delivery
from agent_service.domain.errors import AgentError
from agent_service.v1 import agent_pb2 as pb

T = TypeVar("T")


def are_several() -> bool:
    """Return whether torch.distributed joins this process with others."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def of_rank_0(make: Callable[[], T]) -> T:
    """Return on every rank what `make` returns on rank 0, where alone it runs; raise likewise."""
    told: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            told[0] = make()
        except AgentError as error:
            told[1] = error
    distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    result: T = told[0]
    return result


class SharedDelivery:
    """Reports the mean of all ranks, once, and gives the answer to each of them.

    Ranks meet where a chunk is reported, and nowhere else: a run may end on one of them alone, by
    an exception or by its own last step, and no other waits for it.
    """

    is_shared = True

    def __init__(self, delivery: Delivery) -> None:
        """Send by `delivery` on rank 0."""
        self._delivery = delivery
        self._is_first = distributed.get_rank() == 0

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        """See the protocol; every rank calls this with its own numbers of the same chunk."""
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        mean = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(mean)
        return (mean / distributed.get_world_size()).tolist()

    def send(self, request: Any) -> Any:
        """See the protocol; every rank calls this."""
        return of_rank_0(lambda: self._delivery.send(request))

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """See the protocol."""
        if self._is_first:
            self._delivery.finish(request, is_best_effort=is_best_effort)

    def flush(self) -> None:
        """See the protocol."""
        if self._is_first:
            self._delivery.flush()
