"""Starting a run: its controller, model and first action, in one process or on several ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agent_service.client.deferred import DeferredRun
from agent_service.client.delivery import (
    AgentDelivery,
    Delivery,
    Hold,
    RankMissing,
    RunLost,
    named,
)
from agent_service.client.limits import Limits, range_left
from agent_service.client.run import Run
from agent_service.client.sites import Drives, Site
from agent_service.client.start_request import as_begun, start_request
from agent_service.domain import errors
from agent_service.domain.checks import check_at_least_one, check_kind
from agent_service.domain.hyperparameters import Hyperparameter, check_values
from agent_service.domain.problem import Problem
from agent_service.domain.runs import Mode, check_labels
from agent_service.domain.specs import ControllerSpec
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from torch import nn

    from agent_service.client.model.scores import Score
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel

log = logging.getLogger("agent_service.client")

_MAY_COME_RIGHT = (errors.Unavailable, errors.ResourceExhausted, errors.Failed)
"""Errors of the agent, with which a training may start without it; others are the script's."""

Once = Callable[[Callable[[], Any]], Any]
"""Computes a value in the process that calls the agent, for all processes of a training."""

# torch is imported only in functions for models, so that scripts without models do not need it.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The arguments of `AgentClient.run`."""

    controller: str | ControllerSpec
    run_id: str | None
    mode: Mode | None
    policy_version: int
    labels: Mapping[str, str] | None
    planned_chunks: int | None
    planned_steps: int | None
    problem: Problem | None
    optimizer: Any
    loader: Any
    model: nn.Module | None
    sites: Mapping[str, Site] | None
    drives: Drives | None
    score: Score | None
    when_away: Hold | None
    limits: Limits | None
    is_repeated: bool

    def __post_init__(self) -> None:
        """Check the types of arguments; raises InvalidArgument naming the argument."""
        name_or_spec = "a controller's name, or a ControllerSpec"
        check_kind(self.controller, str | ControllerSpec, "controller", name_or_spec)
        for field, kind, example in (
            ("run_id", str, "'run-1'"),
            ("labels", Mapping, "{'dataset': 'fer2013'}"),
            ("planned_steps", int, "planned_steps=1000"),
            ("problem", Problem, "Problem(classes=7)"),
            ("sites", Mapping, "{'MODULE': Dropout()}"),
            ("when_away", Hold, "Hold(), or None"),
            ("limits", Limits, "Limits(max_change=0.1)"),
        ):
            if (given := getattr(self, field)) is not None:
                check_kind(given, kind, field, example)
        check_labels(self.labels or {})
        self._check_plan()
        if self.model is not None:
            from torch import nn

            check_kind(self.model, nn.Module, "model", "model=net, a torch.nn.Module")

    def _check_plan(self) -> None:
        if self.planned_steps is None:
            return
        check_at_least_one("planned_steps", self.planned_steps)
        if self.planned_chunks is not None:
            raise errors.invalid("planned_steps", "give it or planned_chunks, not both")

    @property
    def name(self) -> str:
        """Name by which the ranks of a training find each other before the run has an id."""
        controller = self.controller
        return self.run_id or (controller if isinstance(controller, str) else controller.name)


def start(options: RunOptions, own: AgentDelivery) -> Run:
    """Start or continue a run; raises as `AgentClient.run` does.

    Args:
        options: the arguments of the run.
        own: calls the agent; in a distributed training, on rank 0 only.
    """
    if options.model is None:
        return _start(options, own, own, _here)
    from agent_service.client.model.ranks import Ranks, SharedDelivery, is_distributed

    if not is_distributed():
        return _start(options, own, own, _here)
    ranks = Ranks(options.name)
    try:
        return _start(options, own, SharedDelivery(own, ranks), ranks.of_rank_0)
    except RankMissing as error:
        ranks.leave()
        log.warning(
            "%s does not start, and the training continues without the agent: %s",
            named(own.run_id or options.name),
            error,
        )
    except BaseException:
        ranks.leave()
        raise
    never = DeferredRun(own, run_id=own.run_id or options.name, begin=lambda: None)
    never.is_finished = True
    return never


def _start(options: RunOptions, own: AgentDelivery, delivery: Delivery, once: Once) -> Run:
    run_id = own.run_id = options.run_id or once(lambda: f"run-{os.urandom(6).hex()}")
    setup = _RunSetup(options, run_id, own, delivery, once)
    try:
        return Run(**setup.arguments())
    except _MAY_COME_RIGHT as error:
        if options.when_away is None:
            raise
        if options.model is None and not isinstance(error, errors.Unavailable | errors.Busy):
            raise
        if options.model is None:
            raise errors.Unavailable(
                f"{error}; or, to start training without it, give the controller's spec and "
                "when_away=Hold(values={...})"
            ) from error
        log.warning(
            "%s; the training starts under the model's own rates, and %s starts once the agent "
            "answers",
            error,
            named(run_id),
        )
    return DeferredRun(delivery, run_id=run_id, begin=setup.deferred_arguments)


@dataclass(frozen=True, slots=True)
class _Controller:
    """The part of an existing controller's spec that a run needs."""

    name: str
    chunk_size: int
    """N, losses per chunk."""
    hyperparameters: tuple[Hyperparameter, ...]


@dataclass(frozen=True, slots=True)
class _RunSetup:
    """Prepares a run's arguments; every process of a training takes each step together."""

    _options: RunOptions
    _run_id: str
    _own: AgentDelivery
    """The delivery of the process that calls the agent."""
    _delivery: Delivery
    _once: Once

    def deferred_arguments(self) -> Mapping[str, Any] | None:
        """Return the arguments of a run whose start failed before; None if it fails again."""
        if not self._once(self._own.availability.may_try):
            return None
        try:
            return self.arguments()
        except _MAY_COME_RIGHT:
            return None

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments of the run."""
        options, once = self._options, self._once
        self._own.begin_start()
        given = options.controller
        values = None if options.when_away is None else options.when_away.values
        is_held = values is not None and isinstance(given, ControllerSpec)
        ask = self._own.send if is_held else self._own.ask
        spec: ControllerSpec | _Controller
        spec = once(partial(self._found, given, ask)) if isinstance(given, str) else given
        self._check_held(spec)
        self._check_limits(spec)
        self._own.names = frozenset(h.name for h in spec.hyperparameters)
        model = None if options.model is None else _connected(options.model, options, spec)
        try:
            if isinstance(given, ControllerSpec):
                # Last, so that no controller is created whose spec does not fit the model.
                creation = pb.CreateControllerRequest(spec=convert.spec_to_message(given))
                once(lambda: _answered(ask(creation)))
            first = once(lambda: self._begun(spec, model, ask))
            newest = first
            if first is not None and options.run_id is not None:
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
            "limits": options.limits,
            "hyperparameters": spec.hyperparameters,
            "first_action": first,
        }

    def _found(self, name: str, ask: Callable[[Any], Any]) -> _Controller:
        """Return an existing controller."""
        found = ask(pb.GetControllerRequest(name=name)).controller
        try:
            hyperparameters = convert.hyperparameters_from_message(found.spec)
        except errors.InvalidArgument as error:
            raise errors.Failed(
                f"the agent answered with an invalid controller: {error}"
            ) from error
        return _Controller(found.spec.name, found.spec.chunk_size, hyperparameters)

    def _check_held(self, spec: ControllerSpec | _Controller) -> None:
        """Check `Hold.values`, even if the agent is not away."""
        hold = self._options.when_away
        if hold is not None and hold.values is not None:
            check_values(spec.hyperparameters, hold.values, field="when_away.values")

    def _check_limits(self, spec: ControllerSpec | _Controller) -> None:
        """Check that the script's limits leave each hyperparameter some of its range."""
        for hyperparameter in spec.hyperparameters:
            range_left(self._options.limits or Limits(), hyperparameter)

    def _begun(
        self,
        spec: ControllerSpec | _Controller,
        model: SteeredModel | ShadowedModel | None,
        ask: Callable[[Any], Any],
    ) -> pb.Action | None:
        """Return the first action of a new run, or of the existing one; None if it is queued."""
        request = start_request(
            self._options,
            run_id=self._run_id,
            controller=spec.name,
            chunk_size=spec.chunk_size,
            model=model,
        )
        try:
            return _answered(ask(request))
        except errors.AlreadyExists:
            # A training that goes on may look different: fewer processes, or another optimizer.
            again = self._as_begun(request)
            if again == request:
                raise
            return _answered(ask(again))

    def _as_begun(self, request: pb.StartRunRequest) -> pb.StartRunRequest:
        try:
            run = self._own.ask(pb.GetRunRequest(run_id=self._run_id)).run
        except errors.NotFound:  # it was pruned
            return request
        return as_begun(request, self._options, run)

    def _newest_action(self) -> pb.Action:
        """Return an existing run's action; raises FailedPrecondition if it is finished."""
        run = self._own.ask(pb.GetRunRequest(run_id=self._run_id)).run
        if run.state == pb.RUN_STATE_FINISHED and not self._options.is_repeated:
            raise errors.FailedPrecondition(
                f"run {self._run_id!r} is finished ({convert.OUTCOMES[run.outcome]}) and takes no "
                "more chunks; give another run_id, or none"
            )
        action: pb.Action = run.action
        return action


def _answered(response: Any) -> pb.Action | None:
    """Return a response's action; None if it has none, or the call is queued."""
    if isinstance(response, RunLost):
        raise errors.FailedPrecondition("the run cannot start: the agent refused its queued calls")
    return getattr(response, "action", None)


def _connected(
    model: nn.Module, options: RunOptions, spec: ControllerSpec | _Controller
) -> SteeredModel | ShadowedModel:
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel

    if options.mode is not Mode.SHADOW:
        return SteeredModel(
            model,
            spec.hyperparameters,
            sites=options.sites,
            drives=options.drives,
            score=options.score,
        )
    if options.sites:
        raise errors.invalid("sites", "a shadow run adds nothing to its model; omit them")
    return ShadowedModel(model, spec.hyperparameters, drives=options.drives, score=options.score)


def _here(make: Callable[[], Any]) -> Any:
    return make()
