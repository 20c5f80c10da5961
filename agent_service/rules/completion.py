"""Completes new controllers from the store: a run to replay, a policy to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent_service.domain.errors import FailedPrecondition, NotFound, about, within
from agent_service.domain.runs import Controller, RunState
from agent_service.domain.specs import ControllerSpec
from agent_service.learning import policies
from agent_service.rules.lookups import found_run
from agent_service.store.rows.session import Session


def completed(
    session: Session, spec: ControllerSpec, existing: Controller | None
) -> ControllerSpec:
    """Return a spec completed with values from the store; see `Settings.completed`.

    Args:
        session: reads the store.
        spec: a spec of any algorithm.
        existing: the existing controller of this name.

    Raises:
        InvalidArgument: a replayed value is out of range, or given together with a run.
        NotFound: the run to replay, or the controller to start from, does not exist.
        FailedPrecondition: that run is not finished, or reported nothing; that controller has no
            policy.
    """
    kind = spec.algorithm.kind
    there = None if existing is None else existing.spec.algorithm
    with within(f"spec.{kind}."):
        algorithm = spec.algorithm.completed(there, _Stored(session, kind))
    with within("spec."):
        return spec if algorithm is spec.algorithm else replace(spec, algorithm=algorithm)


def adopted_policy(session: Session, spec: ControllerSpec) -> bytes | None:
    """Return policy version 1 of a controller with a warm start; None without one.

    Raises:
        NotFound: the source controller or version does not exist.
        FailedPrecondition: its algorithm has no policy.
        InvalidArgument: the policy has another shape or meaning; names `warm_start`.
    """
    start = spec.algorithm.warm_start
    if start is None:
        return None
    stored = _Stored(session, spec.algorithm.kind)
    if start.pretrained:
        with about(stored.field, f"the package's {start.pretrained!r}"):
            return policies.shipped(start.pretrained, spec)
    source = stored.source(start.controller)
    policy = session.find_policy(source, start.policy_version)
    if policy is None:
        raise NotFound(
            f"{stored.field}.policy_version: controller {start.controller!r} has no version "
            f"{start.policy_version}; its newest is {source.policy_version}"
        )
    with about(stored.field, f"the policy of {start.controller!r}"):
        return policies.adopted(policy.data, spec)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Look-ups in the store for the settings of an algorithm."""

    session: Session
    kind: str

    @property
    def field(self) -> str:
        return f"spec.{self.kind}.warm_start"

    def policy_version(self, controller: str) -> int:
        return self.source(controller).policy_version

    def source(self, controller: str) -> Controller:
        source = self.session.find_controller(controller)
        if source is None or source.is_deleted:
            raise NotFound(f"{self.field}.controller: no controller {controller!r}")
        if source.spec.algorithm.policy_settings is None:
            raise FailedPrecondition(
                f"{self.field}.controller: {controller!r} is {source.spec.algorithm.kind}: it has "
                "no policy to start from"
            )
        return source

    def values_of(self, run_id: str) -> tuple[Mapping[str, float], ...]:
        run = found_run(self.session, run_id)
        if run.state is not RunState.FINISHED or run.reported_chunks == 0:
            raise FailedPrecondition(
                f"run {run.id!r} is {run.state} after {run.reported_chunks} chunks; replay a "
                "finished run with at least one"
            )
        log = self.session.transitions(
            controller="", run_id=run.id, after=0, limit=run.reported_chunks
        )
        return tuple(dict(step.applied or step.decision.values) for _run, step in log)
