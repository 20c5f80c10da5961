"""Verification: re-derives every decision from its inputs, policy version and seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from agent_service.controllers.derivation import Derived, derive
from agent_service.domain.errors import AgentError
from agent_service.domain.rewards import compute_reward
from agent_service.domain.runs import Decision, Outcome, Run
from agent_service.rules.policy_cache import PolicyCache
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore

PAGE = 500
"""Decisions per read."""


class VerificationError(AgentError):
    """A decision of the log does not follow from the data stored with it."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The verification of one decision."""

    position: int
    difference: str | None
    """The difference; None if the decision was re-derived bit for bit."""


def verify(store: SqlStore) -> Iterator[Verified]:
    """Re-derive each decision, in order of position, lazily."""
    cache = PolicyCache()
    after = 0
    while True:
        page = store.read(partial(_page, after=after, cache=cache))
        yield from page
        if not page:
            return
        after = page[-1].position


def _page(session: Session, *, after: int, cache: PolicyCache) -> list[Verified]:
    return [
        Verified(decision.position, _difference(session, run, decision, cache))
        for run, decision in session.decisions(after=after, limit=PAGE)
    ]


def _difference(session: Session, run: Run, decision: Decision, cache: PolicyCache) -> str | None:
    """Return what differs in one row of the log; None if it follows from the stored data."""
    if (lost := _lost(session, run, decision)) is not None:
        return lost
    if decision.is_end:
        return _end_difference(run, decision)
    previous = None
    if decision.chunk > 1:
        previous = session.find_decision(run, decision.chunk - 1)
        if previous is None or decision.feedback is None:
            return f"run {run.id}: the report of chunk {decision.chunk - 1} is incomplete"
    names = {h.name for h in run.controller.spec.hyperparameters}
    if decision.applied is not None and set(decision.applied) != names:
        return f"run {run.id}: applied {decision.applied}, not for all of {sorted(names)}"
    derived = derive(
        run,
        previous,
        state=decision.state,
        feedback=decision.feedback,
        applied=decision.applied,
        policy=cache.get(session, run.controller, decision.policy_version),
    )
    return (
        _reward_difference(run, decision, previous)
        or _context_difference(run, decision, derived)
        or _action_difference(run, decision, derived)
    )


def _lost(session: Session, run: Run, decision: Decision) -> str | None:
    """Return which chunk is counted by the run but missing in the log, or the reverse.

    `_difference` checks that each chunk's predecessor exists; this checks the newest one.
    """
    newest = run.reported_chunks + 1
    if decision.chunk > newest + run.has_end:
        return f"run {run.id}, chunk {decision.chunk - 1}: in the log, but not counted by the run"
    # A diverged run may lack the row of its end, which the first release did not write.
    if decision.chunk == 1 and session.find_decision(run, newest) is None:
        return f"run {run.id}, chunk {newest - 1}: counted by the run, but not in the log"
    return None


def _end_difference(run: Run, end: Decision) -> str | None:
    reward = run.controller.spec.reward_of_divergence
    if run.outcome is Outcome.DIVERGED and end.reward == reward:
        return None
    return f"run {run.id}, chunk {end.chunk - 1}: end {run.outcome} with {end.reward}, not {reward}"


def _reward_difference(run: Run, decision: Decision, previous: Decision | None) -> str | None:
    if previous is None or decision.feedback is None:
        return None
    reward = compute_reward(run.controller.spec.reward, decision.feedback, previous.feedback)
    if reward == decision.reward:
        return None
    return f"run {run.id}, chunk {previous.chunk}: reward {decision.reward}, derived {reward}"


def _context_difference(run: Run, decision: Decision, derived: Derived) -> str | None:
    if decision.context.tobytes() == derived.context.tobytes():
        return None
    where = f"run {run.id}, chunk {decision.chunk}"
    return f"{where}: context {decision.context}, derived {derived.context}"


def _action_difference(run: Run, decision: Decision, derived: Derived) -> str | None:
    found, expected = (decision.choice, decision.values), (derived.choice, derived.values)
    if found == expected:
        return None
    where = f"run {run.id}, chunk {decision.chunk}"
    return (
        f"{where}: action {decision.values} ({decision.choice}), "
        f"derived {derived.values} ({derived.choice})"
    )
