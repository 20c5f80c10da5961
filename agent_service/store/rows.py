"""Rows to values and back: the only place that knows how values lie in the tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from agent_service.domain.ports import PolicyVersion
from agent_service.domain.rewards import Feedback, GivenReward, Scores
from agent_service.domain.runs import (
    Choice,
    Controller,
    Decision,
    Mode,
    Outcome,
    Run,
    Transition,
    Use,
)
from agent_service.domain.specs import ControllerSpec
from agent_service.store.checksums import check
from agent_service.store.schema import controllers, decisions, policies, runs

_SPEC = TypeAdapter(ControllerSpec)
_FLOAT64 = np.dtype("<f8")

Row = Mapping[Any, Any]
"""Columns of a result by the names that `queries` gives them."""


def spec_to_text(spec: ControllerSpec) -> str:
    """Return a spec as JSON."""
    return _SPEC.dump_json(spec).decode()


def spec_from_text(text: str) -> ControllerSpec:
    """Return the spec that `spec_to_text` wrote."""
    return _SPEC.validate_json(text)


# Specs never change, and every call reads one.
_cached_spec = lru_cache(1024)(spec_from_text)


def array_to_bytes(array: np.ndarray) -> bytes:
    """Return a float64 array as bytes that read back to the bit."""
    return np.ascontiguousarray(array, dtype=_FLOAT64).tobytes()


def array_from_bytes(data: bytes) -> np.ndarray:
    """Return the array that `array_to_bytes` wrote; read-only."""
    return np.frombuffer(data, dtype=_FLOAT64)


def controller_from_row(row: Row) -> Controller:
    """Return the controller of the columns `controller_*`; raises Unavailable if damaged."""
    check(controllers, row, "controller_")
    return Controller(
        id=row["controller_id"],
        spec=_cached_spec(row["controller_spec"]),
        mode=Mode(row["controller_mode"]),
        policy_version=row["controller_policy_version"],
        created_at=row["controller_created_at"],
        is_deleted=row["controller_deleted_at"] is not None,
    )


def whole_policy_from_row(row: Row) -> PolicyVersion:
    """Return a policy version with its data; raises Unavailable if damaged."""
    check(policies, row, "")
    return policy_from_row(row, row["data"])


def policy_from_row(row: Row, data: bytes) -> PolicyVersion:
    """Return a policy version; its data apart, which is not always read."""
    return PolicyVersion(
        version=row["version"],
        data=data,
        statistics=row["statistics"],
        created_at=row["created_at"],
    )


def run_from_row(row: Row) -> Run:
    """Return the run of the columns `run_*`, with its controller; raises Unavailable if damaged."""
    check(runs, row, "run_")
    outcome = row["run_outcome"]
    return Run(
        key=row["run_key"],
        id=row["run_id"],
        controller=controller_from_row(row),
        mode=Mode(row["run_mode"]),
        labels=row["run_labels"],
        pinned_version=row["run_pinned_version"],
        reported_chunks=row["run_reported_chunks"],
        outcome=None if outcome is None else Outcome(outcome),
        final_score=row["run_final_score"],
        created_at=row["run_created_at"],
        updated_at=row["run_updated_at"],
        abandoned_at=row["run_abandoned_at"],
    )


def run_changes(run: Run) -> dict[str, Any]:
    """Return the columns of a run that change."""
    return {
        "reported_chunks": run.reported_chunks,
        "outcome": None if run.outcome is None else run.outcome.value,
        "final_score": run.final_score,
        "updated_at": run.updated_at,
        "abandoned_at": run.abandoned_at,
    }


def decision_to_row(decision: Decision) -> dict[str, Any]:
    """Return a decision's columns, without keys and position."""
    scores = decision.feedback if isinstance(decision.feedback, Scores) else None
    given = decision.feedback if isinstance(decision.feedback, GivenReward) else None
    return {
        "chunk": decision.chunk,
        "state": array_to_bytes(decision.state),
        "training_score": None if scores is None else scores.training,
        "validation_score": None if scores is None else scores.validation,
        "given_reward": None if given is None else given.value,
        "reward": decision.reward,
        "applied": None if decision.applied is None else dict(decision.applied),
        "sample": array_to_bytes(np.array(decision.choice.sample)),
        "log_probability": decision.choice.log_probability,
        "explored": decision.choice.explored,
        "action": dict(decision.values),
        "policy_version": decision.policy_version,
        "use": decision.use.value,
        "learned_in": decision.learned_in,
        "created_at": decision.created_at,
    }


def decision_from_row(row: Row, prefix: str = "decision_") -> Decision:
    """Return the decision of the columns that begin with `prefix`.

    Raises:
        Unavailable: the row is damaged.
    """
    check(decisions, row, prefix)
    columns = {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)
    }
    return Decision(
        position=columns["position"],
        run_id=row["run_id"],
        chunk=columns["chunk"],
        state=array_from_bytes(columns["state"]),
        feedback=_feedback(columns),
        reward=columns["reward"],
        applied=columns["applied"],
        choice=Choice(
            tuple(array_from_bytes(columns["sample"]).tolist()),
            log_probability=columns["log_probability"],
            explored=columns["explored"],
        ),
        values=columns["action"],
        policy_version=columns["policy_version"],
        use=Use(columns["use"]),
        learned_in=columns["learned_in"],
        created_at=columns["created_at"],
    )


def transition_from_row(row: Row) -> Transition:
    """Return the transition of a decision and the one that followed it, `following_*`."""
    following = decision_from_row(row, "following_")
    assert following.reward is not None
    return Transition(
        position=following.position,
        decision=decision_from_row(row),
        reward=following.reward,
        next_state=following.state,
        feedback=following.feedback,
        applied=following.applied,
        reported_at=following.created_at,
    )


def _feedback(columns: Mapping[str, Any]) -> Feedback | None:
    if columns["validation_score"] is not None:
        return Scores(training=columns["training_score"], validation=columns["validation_score"])
    given = columns["given_reward"]
    return None if given is None else GivenReward(given)
