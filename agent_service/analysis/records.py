"""A step of the decision log as a record: one set of names and units for every format."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from agent_service.analysis.tables import Kind
from agent_service.v1 import agent_pb2 as pb

FIELDS = {
    "position": Kind.INTEGER,
    "report_time": Kind.TIME,
    "controller": Kind.TEXT,
    "run_id": Kind.TEXT,
    "chunk_index": Kind.INTEGER,
    "policy_version": Kind.INTEGER,
    "explored": Kind.FLAG,
    "value": Kind.NAMED,
    "applied": Kind.NAMED,
    "reward": Kind.NUMBER,
    "training_score": Kind.NUMBER,
    "validation_score": Kind.NUMBER,
    "log_probability": Kind.NUMBER,
    "use": Kind.TEXT,
    "learned_in": Kind.INTEGER,
    "sample": Kind.NUMBERS,
    "state": Kind.NUMBERS,
    "context": Kind.NUMBERS,
    "next_state": Kind.NUMBERS,
}
"""What a transition's record holds; the contract's `Transition` says what each is."""


def transition_record(transition: pb.Transition) -> dict[str, Any]:
    """Return a transition by `FIELDS`; None where the log holds nothing.

    `value` and `applied` are by name, in the order of the names; `sample` is in the order of the
    controller's spec. Each name is in `applied`, with None where the action itself was applied.
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
