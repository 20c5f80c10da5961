"""Transitions of the decision log as records: the same fields and units in every format."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from agent_service.analysis.tables import FieldType
from agent_service.v1 import agent_pb2 as pb

FIELDS = {
    "position": FieldType.INTEGER,
    "report_time": FieldType.TIME,
    "controller": FieldType.TEXT,
    "run_id": FieldType.TEXT,
    "chunk_index": FieldType.INTEGER,
    "policy_version": FieldType.INTEGER,
    "explored": FieldType.FLAG,
    "value": FieldType.NAMED,
    "applied": FieldType.NAMED,
    "reward": FieldType.NUMBER,
    "training_score": FieldType.NUMBER,
    "validation_score": FieldType.NUMBER,
    "log_probability": FieldType.NUMBER,
    "use": FieldType.TEXT,
    "learned_in": FieldType.INTEGER,
    "sample": FieldType.NUMBERS,
    "state": FieldType.NUMBERS,
    "context": FieldType.NUMBERS,
    "next_state": FieldType.NUMBERS,
}
"""Fields of a transition's record; the contract documents them in `Transition`."""


def transition_record(transition: pb.Transition) -> dict[str, Any]:
    """Return a transition's record by `FIELDS`; None for values that the log does not have.

    `value` and `applied` are ordered by name, `sample` as in the controller's spec. `applied` has
    all names, with None if the action itself was applied.
    """
    action, scores = transition.action, transition.scores
    has_scores = transition.HasField("scores")
    names = sorted(action.values)
    applied = transition.applied.values
    return {
        "position": transition.position,
        "report_time": transition.report_time.ToDatetime(tzinfo=UTC),
        "controller": transition.controller,
        "run_id": transition.run_id,
        "chunk_index": transition.chunk_index,
        "policy_version": action.policy_version,
        "explored": action.explored,
        "value": {name: action.values[name] for name in names},
        "applied": {name: applied.get(name) for name in names},
        "reward": transition.reward,
        "training_score": scores.training if has_scores else None,
        "validation_score": scores.validation if has_scores else None,
        "log_probability": transition.log_probability,
        "use": pb.Use.Name(transition.use).removeprefix("USE_").lower(),
        "learned_in": transition.learned_in or None,
        "sample": list(transition.sample),
        "state": list(transition.state),
        "context": list(transition.context),
        "next_state": list(transition.next_state),
    }
