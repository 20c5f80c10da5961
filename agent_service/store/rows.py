"""Rows to values and back: the only place that knows how values lie in the tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from agent_service.domain.ports import Origin, PolicyEntry, PolicyVersion
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
    return array.astype(_FLOAT64, copy=False).tobytes()


def array_from_bytes(data: bytes) -> np.ndarray:
    """Return the array that `array_to_bytes` wrote; read-only."""
    return np.frombuffer(data, dtype=_FLOAT64)


def controller_from_row(row: Row) -> Controller:
    """Return the controller of the columns `controller_*`."""
    return Controller(
        id=row["controller_id"],
        spec=_cached_spec(row["controller_spec"]),
        mode=Mode(row["controller_mode"]),
        policy_version=row["controller_policy_version"],
        created_at=row["controller_created_at"],
        is_deleted=row["controller_deleted_at"] is not None,
    )


def policy_from_row(row: Row) -> PolicyVersion:
    """Return a policy version."""
    return PolicyVersion(
        version=row["version"],
        data=row["data"],
        origin=Origin(row["origin"]),
        learned_transitions=row["learned_transitions"],
        statistics=row["statistics"],
        created_at=row["created_at"],
    )


def policy_entry_from_row(row: Row) -> PolicyEntry:
    """Return a policy version without its data, of which the row has the `size`."""
    return PolicyEntry(
        version=row["version"],
        size=row["size"],
        origin=Origin(row["origin"]),
        learned_transitions=row["learned_transitions"],
        statistics=row["statistics"],
        created_at=row["created_at"],
    )


def run_from_row(row: Row) -> Run:
    """Return the run of the columns `run_*`, with its controller."""
    outcome = row["run_outcome"]
    return Run(
        key=row["run_key"],
        id=row["run_id"],
        controller=controller_from_row(row),
        mode=Mode(row["run_mode"]),
        labels=row["run_labels"],
        planned_chunks=row["run_planned_chunks"],
        pinned_version=row["run_pinned_version"],
        reported_chunks=row["run_reported_chunks"],
        outcome=None if outcome is None else Outcome(outcome),
        final_score=row["run_final_score"],
        created_at=row["run_created_at"],
        updated_at=row["run_updated_at"],
        abandoned_at=row["run_abandoned_at"],
    )


def decision_to_row(run: Run, decision: Decision) -> tuple[Any, ...]:
    """Return a decision as the driver takes it, in the order of the table's columns."""
    feedback, choice = decision.feedback, decision.choice
    scores = feedback if isinstance(feedback, Scores) else None
    given = feedback if isinstance(feedback, GivenReward) else None
    return (
        decision.position,
        run.key,
        run.controller.id,
        decision.chunk,
        array_to_bytes(decision.state),
        array_to_bytes(decision.context) if decision.context.size else None,
        None if scores is None else scores.training,
        None if scores is None else scores.validation,
        None if given is None else given.value,
        decision.reward,
        None if decision.applied is None else _to_json(decision.applied),
        array_to_bytes(np.array(choice.sample)),
        choice.log_probability,
        choice.explored,
        _to_json(decision.values),
        decision.policy_version,
        decision.use.value,
        decision.learned_in,
        decision.created_at,
    )


def _to_json(values: Mapping[str, float]) -> str:
    """Return what `json.dumps` does, at a tenth of its cost: names are plain, floats are finite."""
    return "{" + ", ".join(f'"{name}": {float(value)!r}' for name, value in values.items()) + "}"


def decision_from_row(row: Row, prefix: str = "decision_") -> Decision:
    """Return the decision of the columns that begin with `prefix`."""
    columns = {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)
    }
    return Decision(
        position=columns["position"],
        run_id=row["run_id"],
        chunk=columns["chunk"],
        state=array_from_bytes(columns["state"]),
        context=array_from_bytes(columns["context"] or b""),
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
        next_context=following.context,
        feedback=following.feedback,
        applied=following.applied,
        reported_at=following.created_at,
    )


def _feedback(columns: Mapping[str, Any]) -> Feedback | None:
    if columns["validation_score"] is not None:
        return Scores(training=columns["training_score"], validation=columns["validation_score"])
    given = columns["given_reward"]
    return None if given is None else GivenReward(given)
