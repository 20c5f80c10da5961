"""How a run begins: its controller, its model, its first action; alone or on several ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agent_service.client.connection.calls import Calls
from agent_service.client.delivery import (
    AgentDelivery,
    Apart,
    Delivery,
    Hold,
    Lost,
    Presence,
    named,
)
from agent_service.client.late import LateRun
from agent_service.client.limits import Limits
from agent_service.client.run import Run
from agent_service.client.sites import Drives, Site
from agent_service.domain.checks import check_kind
from agent_service.domain.errors import (
    Busy,
    Failed,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    invalid,
)
from agent_service.domain.hyperparameters import Hyperparameter, check_values
from agent_service.domain.runs import Mode, check_labels
from agent_service.domain.specs import ControllerSpec
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire import convert

if TYPE_CHECKING:
    from torch import nn

    from agent_service.client.model.scores import Score
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel

log = logging.getLogger("agent_service.client")

_MAY_COME_RIGHT = (Unavailable, ResourceExhausted, Failed)
"""The agent's own trouble, in which a training begins without it; others are of the script."""

Once = Callable[[Callable[[], Any]], Any]
"""Makes a value in the process that talks to the agent, for all processes of a training."""

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
    is_repeated: bool

    def __post_init__(self) -> None:
        """Check the kinds of what is given; raises InvalidArgument naming the argument."""
        for field, kind, example in (
            ("labels", Mapping, "{'dataset': 'fer2013'}"),
            ("sites", Mapping, "{'MODULE': Dropout()}"),
            ("when_away", Hold, "Hold(), or None"),
            ("limits", Limits, "Limits(max_change=0.1)"),
        ):
            if (given := getattr(self, field)) is not None:
                check_kind(given, kind, field, example)
        check_labels(self.labels or {})
        if self.model is not None:
            from torch import nn

            check_kind(self.model, nn.Module, "model", "model=net, a torch.nn.Module")

    @property
    def name(self) -> str:
        """What all ranks of a training know the run by before it has an id."""
        controller = self.controller
        return self.run_id or (controller if isinstance(controller, str) else controller.name)


class Starting:
    """Begins runs over one channel."""

    def __init__(
        self, calls: Calls, stub: agent_pb2_grpc.AgentServiceStub, presence: Presence
    ) -> None:
        """Call by `calls`."""
        self._calls = calls
        self._stub = stub
        self._presence = presence

    def begin(self, start: Start) -> Run:
        """Start a run, or go on with it; raises as `AgentClient.run` says."""
        own = AgentDelivery(self._calls, self._stub, start.when_away, self._presence)
        if start.model is None:
            return self._begin(start, own, own, _here)
        from agent_service.client.model.ranks import Ranks, SharedDelivery, are_several

        if not are_several():
            return self._begin(start, own, own, _here)
        ranks = Ranks(start.name)
        try:
            return self._begin(start, own, SharedDelivery(own, ranks), ranks.of_rank_0)
        except Apart as error:
            ranks.leave()
            log.warning(
                "%s does not begin, and the training goes on without the agent: %s",
                named(own.run_id or start.name),
                error,
            )
        except BaseException:
            ranks.leave()
            raise
        never = LateRun(own, run_id=own.run_id or start.name, begin=lambda: None)
        never.is_finished = True
        return never

    def _begin(self, start: Start, own: AgentDelivery, delivery: Delivery, once: Once) -> Run:
        run_id = own.run_id = start.run_id or once(lambda: f"run-{os.urandom(6).hex()}")
        beginning = _Beginning(start, run_id, own, delivery, once)
        try:
            return Run(**beginning.arguments())
        except _MAY_COME_RIGHT as error:
            if start.when_away is None:
                raise
            if start.model is None and not isinstance(error, Unavailable | Busy):
                raise
            if start.model is None:
                raise Unavailable(
                    f"{error}; or, to train without it until it is there, give the controller's "
                    "spec and when_away=Hold(values={...})"
                ) from error
            log.warning(
                "%s; the training begins under the model's own rates, and %s begins once the "
                "agent answers",
                error,
                named(run_id),
            )
        return LateRun(
            delivery, run_id=run_id, begin=lambda: beginning.late_arguments(self._presence)
        )


@dataclass(frozen=True, slots=True)
class _Controller:
    """What a run needs of a controller that is there, whatever decides for it."""

    name: str
    chunk_size: int
    """N: losses in a chunk."""
    hyperparameters: tuple[Hyperparameter, ...]


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a run begins with; every process of a training does each step of it."""

    _start: Start
    _run_id: str
    _own: AgentDelivery
    """Of the process that talks to the agent."""
    _delivery: Delivery
    _once: Once

    def late_arguments(self, presence: Presence) -> Mapping[str, Any] | None:
        """Return the arguments of a run that could not begin before; None while it cannot yet."""
        if not self._once(presence.may_try):
            return None
        try:
            return self.arguments()
        except _MAY_COME_RIGHT:
            return None

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments of the run, whose model has the first action's values then."""
        start, once = self._start, self._once
        self._own.begin_start()
        given = start.controller
        values = None if start.when_away is None else start.when_away.values
        is_held = values is not None and isinstance(given, ControllerSpec)
        ask = self._own.send if is_held else self._own.ask
        spec: ControllerSpec | _Controller
        spec = once(partial(self._found, given, ask)) if isinstance(given, str) else given
        self._check_held(spec)
        self._own.names = frozenset(h.name for h in spec.hyperparameters)
        model = None if start.model is None else _connected(start.model, start, spec)
        try:
            if isinstance(given, ControllerSpec):
                # Not before: one that does not fit the model would keep its name.
                once(lambda: _answered(ask(_creation(given))))
            first = once(lambda: _answered(ask(_request(start, spec, self._run_id))))
            newest = first
            if first is not None and start.run_id is not None:
                newest = once(self._newest_action)
        except BaseException:
            if model is not None:
                model.remove()
            raise
        return {
            "delivery": self._delivery,
            "run_id": self._run_id,
            "chunk_size": spec.chunk_size,
            "action": pb.Action(values=values, chunk_index=1) if newest is None else newest,
            "is_held": first is None,
            "model": model,
            "limits": start.limits,
            "hyperparameters": spec.hyperparameters,
            "first_action": first,
        }

    def _found(self, name: str, ask: Callable[[Any], Any]) -> _Controller:
        """Return a controller that is there."""
        found = ask(pb.GetControllerRequest(name=name)).controller
        try:
            hyperparameters = convert.hyperparameters_from_message(found.spec)
        except InvalidArgument as error:
            raise Failed(f"the agent answered with a controller of no use: {error}") from error
        return _Controller(found.spec.name, found.spec.chunk_size, hyperparameters)

    def _check_held(self, spec: ControllerSpec | _Controller) -> None:
        """Check what the run begins under where the agent is away, also where it is there."""
        hold = self._start.when_away
        if hold is not None and hold.values is not None:
            check_values(spec.hyperparameters, hold.values, field="when_away.values")

    def _newest_action(self) -> pb.Action:
        """Return what a run that is there goes on under; raises FailedPrecondition of an end."""
        run = self._own.ask(pb.GetRunRequest(run_id=self._run_id)).run
        if run.state == pb.RUN_STATE_FINISHED and not self._start.is_repeated:
            raise FailedPrecondition(
                f"run {self._run_id!r} is finished ({convert.OUTCOMES[run.outcome]}) and takes no "
                "more chunks; give another run_id, or none"
            )
        action: pb.Action = run.action
        return action


def _answered(response: Any) -> pb.Action | None:
    """Return a new run's first action; None where the call is held."""
    if isinstance(response, Lost):
        raise FailedPrecondition("the run cannot begin: what was held for it is refused")
    return getattr(response, "action", None)


def _creation(spec: ControllerSpec) -> pb.CreateControllerRequest:
    return pb.CreateControllerRequest(spec=convert.spec_to_message(spec))


def _request(start: Start, spec: ControllerSpec | _Controller, run_id: str) -> pb.StartRunRequest:
    return pb.StartRunRequest(
        controller=spec.name,
        run_id=run_id,
        mode=convert.mode_to_message(start.mode),
        policy_version=start.policy_version,
        labels=start.labels,
        planned_chunks=start.planned_chunks or 0,
    )


def _connected(
    model: nn.Module, start: Start, spec: ControllerSpec | _Controller
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
