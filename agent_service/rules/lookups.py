"""Look-ups of what a call names; each raises NotFound if it does not exist."""

from __future__ import annotations

from agent_service.domain.checks import quoted
from agent_service.domain.errors import NotFound, Unavailable
from agent_service.domain.runs import Controller, Decision, Run
from agent_service.domain.store import PolicyVersion, Session

CREATE_IT = "; create it first, or in a script give its spec instead of its name"
"""The fix for callers that start a run."""


def found_controller(session: Session, name: str, *, fix: str = "") -> Controller:
    """Return a controller that is not deleted; raises NotFound, with the fix."""
    controller = session.find_controller(name)
    if controller is None or controller.is_deleted:
        raise NotFound(f"no controller {quoted(name)}{fix}")
    return controller


def found_policy(session: Session, controller: Controller, version: int) -> PolicyVersion:
    """Return a policy version; raises NotFound."""
    policy = session.find_policy(controller, version)
    if policy is None:
        raise NotFound(f"controller {controller.spec.name!r} has no policy version {version}")
    return policy


def found_run(session: Session, run_id: str) -> Run:
    """Return a run; raises NotFound, also if it was pruned."""
    run = session.find_run(run_id)
    if run is None:
        raise NotFound(f"no run {quoted(run_id)}")
    if run.archive is not None:
        raise NotFound(f"run {run_id!r} was pruned: it is in the archive file {run.archive}")
    return run


def stored_decision(session: Session, run: Run, chunk: int) -> Decision:
    """Return the decision for a chunk that must have one.

    Raises:
        Unavailable: it is missing, so the store is damaged.
    """
    decision = session.find_decision(run, chunk)
    if decision is None:
        raise Unavailable(
            f"the store is damaged: run {run.id} has no decision for chunk {chunk}; stop the "
            "service and restore a copy of the store"
        )
    return decision
