"""Warm starts: a new controller that begins with another one's policy."""

from __future__ import annotations

from dataclasses import replace

from agent_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound, invalid
from agent_service.domain.runs import Controller
from agent_service.domain.specs import ControllerSpec, PPOSettings, WarmStart
from agent_service.domain.store import Session
from agent_service.learning import policies

FIELD = "spec.ppo.warm_start"


def with_version(
    session: Session, spec: ControllerSpec, existing: Controller | None
) -> ControllerSpec:
    """Return a spec whose warm start names a version, where it asks for the newest.

    Args:
        session: where the source is looked up.
        spec: of any algorithm; returned as it is where it has no warm start, or names a version.
        existing: the controller of this name; the newest version is the one that was so for it.

    Raises:
        NotFound: the source is not there.
        FailedPrecondition: its algorithm has no policy.
    """
    start = _warm_start(spec)
    if start is None or start.policy_version:
        return spec
    if existing is None:
        version = _found_source(session, start).policy_version
    else:
        there = _warm_start(existing.spec)
        version = 0 if there is None else there.policy_version
    assert isinstance(spec.algorithm, PPOSettings)
    resolved = replace(start, policy_version=version)
    return replace(spec, algorithm=replace(spec.algorithm, warm_start=resolved))


def adopted_policy(session: Session, spec: ControllerSpec) -> bytes | None:
    """Return policy version 1 of a controller whose warm start names a version; None without one.

    Raises:
        NotFound: the source, or its version, is not there.
        FailedPrecondition: its algorithm has no policy.
        InvalidArgument: field `spec.ppo.warm_start`, where the policy has another shape or meaning.
    """
    start = _warm_start(spec)
    if start is None:
        return None
    source = _found_source(session, start)
    policy = session.find_policy(source, start.policy_version)
    if policy is None:
        raise NotFound(
            f"{FIELD}.policy_version: controller {start.controller!r} has no version "
            f"{start.policy_version}; its newest is {source.policy_version}"
        )
    try:
        return policies.adopted(policy.data, spec)
    except InvalidArgument as error:
        reason = "; ".join(v.description for v in error.violations)
        raise invalid(FIELD, f"the policy of {start.controller!r} {reason}") from error


def _warm_start(spec: ControllerSpec) -> WarmStart | None:
    return spec.algorithm.warm_start if isinstance(spec.algorithm, PPOSettings) else None


def _found_source(session: Session, start: WarmStart) -> Controller:
    source = session.find_controller(start.controller)
    if source is None or source.is_deleted:
        raise NotFound(f"{FIELD}.controller: no controller {start.controller!r}")
    if not source.spec.algorithm.learns_from_transitions:
        kind = source.spec.algorithm.kind
        raise FailedPrecondition(
            f"{FIELD}.controller: {start.controller!r} is {kind}: it has no policy to begin with"
        )
    return source
