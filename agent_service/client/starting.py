"""How a run begins: its controller, its model, its first action; alone or on several ranks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_service import convert
from agent_service.client.calls import Calls
from agent_service.client.delivery import AgentDelivery, Delivery, Hold
from agent_service.client.limits import Limits
from agent_service.client.run import Run
from agent_service.client.sites import Drives, Site
from agent_service.domain.errors import Unavailable, invalid
from agent_service.domain.hyperparameters import check_values
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc

if TYPE_CHECKING:
    from torch import nn

    from agent_service.client.model.scores import Score
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel

# torch is imported inside the functions for models alone, so that who gives none needs none.


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What `AgentClient.run` is asked for; see there."""

    controller: str | ControllerSpec
    run_id: str | None
    mode: Mode | None
    policy_version: int
    labels: Mapping[str, str] | None
    planned_chunks: int | None
    model: nn.Module | None
    sites: Mapping[str, Site] | None
    drives: Drives | None
    score: Score | None
    when_away: Hold | None
    limits: Limits | None


class Starting:
    """Begins runs over one channel."""

    def __init__(self, calls: Calls, stub: agent_pb2_grpc.AgentServiceStub) -> None:
        """Call by `calls`."""
        self._calls = calls
        self._stub = stub

    def begin(self, start: Start) -> Run:
        """Start a run, or go on with it; raises as `AgentClient.run` says."""
        own = AgentDelivery(self._calls, self._stub, start.when_away)
        delivery, once = (own, _here) if start.model is None else _among_ranks(own)
        spec = once(lambda: self._spec(start, own))
        request = once(lambda: _request(start, spec))
        model = None if start.model is None else _connected(start.model, start, spec)
        try:
            response = delivery.send(request)
            if response is None:
                action = _held_action(start.when_away, spec)
            elif start.run_id is None:
                action = response.action
            else:
                action = once(lambda: self._newest_action(request.run_id))
        except BaseException:
            if model is not None:
                model.remove()
            raise
        return Run(
            delivery,
            run_id=request.run_id,
            chunk_size=spec.chunk_size,
            action=action,
            is_held=response is None,
            model=model,
            limits=start.limits,
            hyperparameters=spec.hyperparameters,
            first_action=None if response is None else response.action,
        )

    def _spec(self, start: Start, delivery: AgentDelivery) -> ControllerSpec:
        """Return the spec of a controller that is there, or will be before its run is."""
        if isinstance(start.controller, str):
            by_name = pb.GetControllerRequest(name=start.controller)
            found = self._calls.call(self._stub.GetController, by_name).controller
            return convert.spec_from_message(found.spec)
        creation = pb.CreateControllerRequest(spec=convert.spec_to_message(start.controller))
        if delivery.send(creation) is None:
            _held_action(start.when_away, start.controller)
        return start.controller

    def _newest_action(self, run_id: str) -> pb.Action:
        return self._calls.call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id)).run.action


def _request(start: Start, spec: ControllerSpec) -> pb.StartRunRequest:
    return pb.StartRunRequest(
        controller=spec.name,
        run_id=start.run_id or f"run-{uuid.uuid4().hex[:12]}",
        mode=convert.mode_to_message(start.mode),
        policy_version=start.policy_version,
        labels=start.labels,
        planned_chunks=start.planned_chunks or 0,
    )


def _held_action(hold: Hold | None, spec: ControllerSpec) -> pb.Action:
    """Return what a run begins under while the agent is away; raises Unavailable without values."""
    if hold is None or hold.values is None:
        raise Unavailable(
            "the agent is away, and Hold(values=...) says nothing to begin with; is it running? "
            "`agent-service serve`"
        )
    check_values(spec.hyperparameters, hold.values, field="when_away.values")
    return pb.Action(values=hold.values, chunk_index=1)


def _connected(
    model: nn.Module, start: Start, spec: ControllerSpec
) -> SteeredModel | ShadowedModel:
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel

    if start.mode is not Mode.SHADOW:
        return SteeredModel(
            model,
            spec.hyperparameters,
            sites=start.sites,
            drives=start.drives,
            score=start.score,
        )
    if start.sites:
        raise invalid("sites", "a shadow run adds nothing to its model; leave them out")
    return ShadowedModel(model, spec.hyperparameters, drives=start.drives, score=start.score)


def _here(make: Callable[[], Any]) -> Any:
    return make()


def _among_ranks(delivery: Delivery) -> tuple[Delivery, Callable[[Callable[[], Any]], Any]]:
    """Return the delivery, and what makes a value once, for all ranks of a training."""
    from agent_service.client.model import ranks

    if ranks.are_several():
        return ranks.SharedDelivery(delivery), ranks.of_rank_0
    return delivery, _here
