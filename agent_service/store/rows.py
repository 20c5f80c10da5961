"""Rows to values and back: the only place that knows how values lie in the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from agent_service.domain.rewards import Feedback, GivenReward, Scores
from agent_service.domain.runs import Choice, Controller, Decision, Mode, Outcome, Run, Use
from agent_service.domain.specs import ControllerSpec

_SPEC = TypeAdapter(ControllerSpec)
_FLOAT64 = np.dtype("<f8")

Row = Mapping[Any, Any]
"""Columns of a result by name; SQLAlchemy allows column objects as keys, too."""


def spec_to_text(spec: ControllerSpec) -> str:
    """Return a spec as JSON."""
    return _SPEC.dump_json(spec).decode()


def spec_from_text(text: str) -> ControllerSpec:
    """Return the spec that `spec_to_text` wrote."""
    return _SPEC.validate_json(text)


def array_to_bytes(array: np.ndarray) -> bytes:
    """Return a float64 array as bytes that read back to the bit."""
    return np.ascontiguousarray(array, dtype=_FLOAT64).tobytes()


def array_from_bytes(data: bytes) -> np.ndarray:
    """Return the array that `array_to_bytes` wrote; read-only."""
    return np.frombuffer(data, dtype=_FLOAT64)


def controller_from_row(row: Row, spec: ControllerSpec) -> Controller:
    """Return a controller; its spec was read before."""
    return Controller(
        id=row["controller_key"],
        spec=spec,
        mode=Mode(row["controller_mode"]),
        policy_version=row["controller_policy_version"],
        created_at=row["controller_created_at"],
        is_deleted=row["controller_deleted_at"] is not None,
    )


def run_from_row(row: Row, controller: Controller) -> Run:
    """Return a run; its controller was read before."""
    return Run(
        id=row["id"],
        controller=controller,
        mode=Mode(row["mode"]),
        labels=row["labels"],
        pinned_version=row["pinned_version"],
        reported_chunks=row["reported_chunks"],
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        final_score=row["final_score"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


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


def decision_from_row(row: Row, run_id: str) -> Decision:
    """Return the decision of a row of the log."""
    return Decision(
        position=row["position"],
        run_id=run_id,
        chunk=row["chunk"],
        state=array_from_bytes(row["state"]),
        feedback=_feedback(row),
        reward=row["reward"],
        applied=row["applied"],
        choice=Choice(
            tuple(array_from_bytes(row["sample"]).tolist()),
            log_probability=row["log_probability"],
            explored=row["explored"],
        ),
        values=row["action"],
        policy_version=row["policy_version"],
        use=Use(row["use"]),
        learned_in=row["learned_in"],
        created_at=row["created_at"],
    )


def _feedback(row: Row) -> Feedback | None:
    if row["validation_score"] is not None:
        return Scores(training=row["training_score"], validation=row["validation_score"])
    return None if row["given_reward"] is None else GivenReward(row["given_reward"])
