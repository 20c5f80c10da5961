"""Learning from final scores: each adds a trial to the trial history, in a new policy version."""

from __future__ import annotations

import math

import numpy as np

from agent_service.domain.runs import Decision, FinishRun, Mode, Outcome, Run
from agent_service.domain.store import Origin, PolicyVersion
from agent_service.domain.trials import TrialHistory
from agent_service.learning import policies
from agent_service.rules.lookups import stored_decision
from agent_service.rules.policy_cache import PolicyCache
from agent_service.store.rows.session import Session


def learn_from_end(
    session: Session, run: Run, finish: FinishRun, *, cache: PolicyCache, now: float
) -> None:
    """Store a policy version with the run's final score, if its controller learns from scores.

    A run counts if it was learning, trained under the decided values throughout, and has a final
    score or diverged. `run` is its state before its end.
    """
    score = math.nan if finish.outcome is Outcome.DIVERGED else finish.final_score
    if score is None or not _is_learned_from(run):
        return
    decision = stored_decision(session, run, 1)
    if not _ran_as_decided(session, run, decision):
        return
    history = cache.get(session, run.controller, run.controller.policy_version)
    assert isinstance(history, TrialHistory), "controllers that learn from scores have one"
    longer = history.with_trial(decision.choice.sample, score)
    session.add_policy(
        run.controller,
        PolicyVersion(
            version=run.controller.policy_version + 1,
            data=policies.dump(longer, run.controller.spec),
            origin=Origin.LEARNED,
            statistics=_statistics(longer),
            created_at=now,
        ),
    )


def _is_learned_from(run: Run) -> bool:
    controller = run.controller
    modes = (run.mode, controller.mode)
    return controller.spec.algorithm.learns_from_scores and modes == (Mode.LEARNING, Mode.LEARNING)


def _ran_as_decided(session: Session, run: Run, decision: Decision) -> bool:
    values = dict(decision.values)
    return all(dict(applied) == values for applied in session.applied_values(run))


def _statistics(history: TrialHistory) -> dict[str, float]:
    """Return the number of trials, and the last and the best score, if any."""
    statistics = {"trials": float(len(history))}
    if not np.isnan(history.scores[-1]):
        statistics["score"] = float(history.scores[-1])
    if history.best is not None:
        statistics["best_score"] = float(history.scores[history.best])
    return statistics
