"""Checks of a run's start: whether it repeats an earlier one, and which policy version it gets."""

from __future__ import annotations

from agent_service.domain.checks import differences
from agent_service.domain.errors import invalid
from agent_service.domain.runs import Controller, Mode, Run, StartRun
from agent_service.domain.store import Session
from agent_service.rules.lookups import found_policy


def other_start(session: Session, run: Run, start: StartRun) -> str:
    """Return how a start differs from the one that created `run`, as text; empty if it does not.

    Compares what was requested, not what the run got.
    """
    there = StartRun(
        controller=run.controller.spec.name,
        run_id=run.id,
        mode=session.requested_mode(run),
        policy_version=session.requested_version(run),
        labels=dict(run.labels),
        planned_chunks=run.planned_chunks,
    )
    return differences(there, start)


def pinned_version(
    session: Session, start: StartRun, controller: Controller, mode: Mode
) -> int | None:
    """Return the policy version that a new run is pinned to; None if it follows the newest.

    Raises:
        InvalidArgument: a version is requested for a learning run, or of a controller without a
            policy.
        NotFound: the version does not exist.
    """
    version = start.policy_version
    if version is None:
        return None if mode is Mode.LEARNING else controller.policy_version
    if controller.policy_version == 0:
        kind = controller.spec.algorithm.kind
        raise invalid("policy_version", f"is {version}; {kind} has no policy: leave it unset")
    if mode is Mode.LEARNING:
        raise invalid(
            "policy_version", f"is {version}; a learning run uses the newest: request frozen"
        )
    return found_policy(session, controller, version).version
