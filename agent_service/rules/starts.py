"""What a run's start asks for: whether it was asked before, and which policy version it gets."""

from __future__ import annotations

from agent_service.domain.checks import differences
from agent_service.domain.errors import invalid
from agent_service.domain.runs import Controller, Mode, Run, StartRun
from agent_service.domain.store import Session
from agent_service.rules.lookups import found_policy


def other_start(session: Session, run: Run, start: StartRun) -> str:
    """Return what a start asks for otherwise than the one that made `run`; nothing for the same.

    What it asked for counts, not what it got.
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
    """Return the policy version that a new run keeps to; None where it follows the newest.

    Raises:
        InvalidArgument: one is asked for by a learning run, or of a controller without a policy.
        NotFound: there is no such version.
    """
    version = start.policy_version
    if version is None:
        return None if mode is Mode.LEARNING else controller.policy_version
    if controller.policy_version == 0:
        kind = controller.spec.algorithm.kind
        raise invalid("policy_version", f"is {version}; {kind} has no policy: leave it unset")
    if mode is Mode.LEARNING:
        raise invalid(
            "policy_version", f"is {version}; a learning run follows the newest: ask for frozen"
        )
    return found_policy(session, controller, version).version
