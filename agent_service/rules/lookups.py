"""Look-ups of what a call names, which raise NotFound, and comparison of starts."""

from __future__ import annotations

from dataclasses import replace

from agent_service.domain.checks import differences, quoted
from agent_service.domain.errors import NotFound, Unavailable, invalid
from agent_service.domain.problem import Problem
from agent_service.domain.runs import Controller, Decision, Mode, Run, StartRun
from agent_service.domain.store import PolicyVersion
from agent_service.store.rows.session import Session

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


def other_start(session: Session, run: Run, start: StartRun) -> str:
    """Return how a start differs from the one that created `run`, as text; empty if it does not.

    Compares what was requested, not what the run got. What one of the two does not know of the
    problem is no difference: a client of another release may see less of the same training.
    """
    problem, sent = run.problem or Problem(), start.problem or Problem()
    there = StartRun(
        controller=run.controller.spec.name,
        run_id=run.id,
        mode=session.requested_mode(run),
        policy_version=session.requested_version(run),
        labels=dict(run.labels),
        planned_chunks=run.planned_chunks,
        problem=problem.filled_from(sent),
    )
    return differences(there, replace(start, problem=sent.filled_from(problem)))


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
