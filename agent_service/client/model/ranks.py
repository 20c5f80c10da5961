"""One run of a training by several processes: rank 0 talks to the agent, all apply its action."""

from __future__ import annotations

from collections.abc import Callable
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
    """Sends the mean of all ranks' reports, once, and gives the answer to each of them."""

    def __init__(self, delivery: Delivery) -> None:
        """Send by `delivery` on rank 0."""
        self._delivery = delivery

    def send(self, request: Any) -> Any:
        """See the protocol; every rank calls this with its own report of the same chunk."""
        if isinstance(request, pb.ReportChunkRequest):
            _average(request)
        return of_rank_0(lambda: self._delivery.send(request))

    def finish(self, request: pb.FinishRunRequest) -> None:
        """See the protocol."""
        of_rank_0(lambda: self._delivery.finish(request))


def _average(request: pb.ReportChunkRequest) -> None:
    """Put the mean over ranks in place of a report's own losses and scores."""
    own = [*request.losses, request.scores.training, request.scores.validation]
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    numbers = torch.tensor(own, dtype=torch.float64, device=device)
    distributed.all_reduce(numbers)
    *losses, training, validation = (numbers / distributed.get_world_size()).tolist()
    request.losses[:] = losses
    request.scores.training, request.scores.validation = training, validation
