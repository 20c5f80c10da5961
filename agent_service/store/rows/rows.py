"""Conversion between rows and values: the only place that knows how values are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from operator import itemgetter
from typing import Any

import numpy as np

from agent_service.controllers.registry import settings_class
from agent_service.domain.caches import SizedCache
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.problem import Problem
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
from agent_service.domain.store import Origin, PolicyEntry, PolicyVersion
from agent_service.store.rows.checksums import check, checksum
from agent_service.store.sql.schema import controllers, decisions, policies, runs

_FLOAT64 = np.dtype("<f8")

_in_order = itemgetter(*(column.name for column in decisions.columns))

Row = Mapping[str, Any]
"""Columns of a result, by the labels that `queries` defines."""


def spec_to_text(spec: ControllerSpec) -> str:
    """Return a spec as JSON."""
    return json.dumps(spec, default=_contents, separators=(",", ":"))


def _contents(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields, or a mapping's entries, as `json` takes them."""
    if isinstance(value, Mapping):
        return dict(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}


def spec_from_text(text: str) -> ControllerSpec:
    """Return the spec from the JSON of `spec_to_text`; InvalidArgument for an unknown kind."""
    content = json.loads(text)
    content["hyperparameters"] = [Hyperparameter(**one) for one in content["hyperparameters"]]
    settings = content["algorithm"]
    content["algorithm"] = settings_class(settings["kind"])(**settings)
    return ControllerSpec(**content)


# Specs are immutable, and every call reads one. Parsed, a long one takes 8 times its text's memory.
_SPECS: SizedCache[str, ControllerSpec] = SizedCache(entries=1024, size=8 * 2**20)


def _cached_spec(text: str) -> ControllerSpec:
    if (spec := _SPECS.get(text)) is None:
        spec = spec_from_text(text)
        _SPECS.put(text, spec, len(text))
    return spec


def _array(data: bytes) -> np.ndarray:
    """Return the stored float64 array, bit for bit; read-only."""
    return np.frombuffer(data, dtype=_FLOAT64)


def controller_from_row(row: Row) -> Controller:
    """Return the controller from the columns `controller_*`; raises Unavailable if damaged."""
    check(controllers, row, "controller_")
    return Controller(
        id=row["controller_id"],
        spec=_cached_spec(row["controller_spec"]),
        mode=Mode(row["controller_mode"]),
        policy_version=row["controller_policy_version"],
        created_at=row["controller_created_at"],
        is_deleted=row["controller_deleted_at"] is not None,
    )


def policy_from_row(row: Row) -> PolicyVersion:
    """Return a policy version; raises Unavailable if damaged."""
    check(policies, row, "")
    return PolicyVersion(
        version=row["version"],
        data=row["data"],
        origin=Origin(row["origin"]),
        learned_transitions=row["learned_transitions"],
        statistics=row["statistics"],
        created_at=row["created_at"],
    )


def policy_entry_from_row(row: Row) -> PolicyEntry:
    """Return a policy version without its data; the row has the data's `size`."""
    return PolicyEntry(
        version=row["version"],
        size=row["size"],
        origin=Origin(row["origin"]),
        learned_transitions=row["learned_transitions"],
        statistics=row["statistics"],
        created_at=row["created_at"],
    )


def run_from_row(row: Row) -> Run:
    """Return the run from the columns `run_*`, with its controller.

    Raises:
        Unavailable: the row is damaged.
    """
    check(runs, row, "run_")
    outcome = row["run_outcome"]
    return Run(
        key=row["run_key"],
        id=row["run_id"],
        controller=controller_from_row(row),
        mode=Mode(row["run_mode"]),
        labels=row["run_labels"],
        planned_chunks=row["run_planned_chunks"],
        problem=None if row["run_problem"] is None else Problem(**row["run_problem"]),
        pinned_version=row["run_pinned_version"],
        reported_chunks=row["run_reported_chunks"],
        outcome=None if outcome is None else Outcome(outcome),
        final_score=row["run_final_score"],
        created_at=row["run_created_at"],
        updated_at=row["run_updated_at"],
        abandoned_at=row["run_abandoned_at"],
        archive=row["run_archive"],
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


def decision_to_row(run: Run, decision: Decision) -> tuple[Any, ...]:
    """Return a decision's values and checksum for the driver, in column order."""
    feedback, choice, applied = decision.feedback, decision.choice, decision.applied
    scores = feedback if isinstance(feedback, Scores) else None
    given = feedback if isinstance(feedback, GivenReward) else None
    # As they will be read: no integers in float columns, and no negative zeros.
    row: dict[str, Any] = {
        "position": decision.position,
        "run_key": run.key,
        "controller_id": run.controller.id,
        "chunk": decision.chunk,
        "state": decision.state.astype(_FLOAT64, copy=False).tobytes(),
        "context": decision.context.astype(_FLOAT64, copy=False).tobytes() or None,
        "training_score": None if scores is None else scores.training + 0.0,
        "validation_score": None if scores is None else scores.validation + 0.0,
        "given_reward": None if given is None else given.value + 0.0,
        "reward": None if decision.reward is None else decision.reward + 0.0,
        "applied": None if applied is None else _floats(applied),
        "sample": np.array(choice.sample, _FLOAT64).tobytes(),
        "log_probability": choice.log_probability + 0.0,
        "explored": choice.explored,
        "action": dict(decision.values),
        "policy_version": decision.policy_version,
        "use": decision.use.value,
        "learned_in": decision.learned_in,
        "created_at": decision.created_at + 0.0,
    }
    row["checksum"] = checksum(decisions, row)
    row["action"] = _to_json(row["action"])
    if applied is not None:
        row["applied"] = _to_json(row["applied"])
    values: tuple[Any, ...] = _in_order(row)
    return values


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(values, map(float, values.values()), strict=True))


def _to_json(values: Mapping[str, float]) -> str:
    """Return `json.dumps(values)` at a tenth of its cost; names are plain and floats finite."""
    return "{" + ", ".join(map('"%s": %r'.__mod__, values.items())) + "}"


def decision_from_row(row: Row, prefix: str = "decision_") -> Decision:
    """Return the decision from the columns that begin with `prefix`.

    Raises:
        Unavailable: the row is damaged.
    """
    check(decisions, row, prefix)
    return Decision(
        position=row[prefix + "position"],
        run_id=row["run_id"],
        chunk=row[prefix + "chunk"],
        state=_array(row[prefix + "state"]),
        context=_array(row[prefix + "context"] or b""),
        feedback=_feedback(row, prefix),
        reward=row[prefix + "reward"],
        applied=row[prefix + "applied"],
        choice=Choice(
            tuple(_array(row[prefix + "sample"]).tolist()),
            log_probability=row[prefix + "log_probability"],
            explored=row[prefix + "explored"],
        ),
        values=row[prefix + "action"],
        policy_version=row[prefix + "policy_version"],
        use=Use(row[prefix + "use"]),
        learned_in=row[prefix + "learned_in"],
        created_at=row[prefix + "created_at"],
    )


def transition_from_row(row: Row) -> Transition:
    """Return the transition from a decision's columns and its successor's, `following_*`."""
    return transition(decision_from_row(row), decision_from_row(row, "following_"))


def transition(decision: Decision, following: Decision) -> Transition:
    """Return the transition from a decision to the one that its chunk's report led to."""
    assert following.reward is not None
    return Transition(
        position=following.position,
        decision=decision,
        reward=following.reward,
        next_state=following.state,
        next_context=following.context,
        feedback=following.feedback,
        applied=following.applied,
        reported_at=following.created_at,
    )


def _feedback(row: Row, prefix: str) -> Feedback | None:
    if (validation := row[prefix + "validation_score"]) is not None:
        return Scores(training=row[prefix + "training_score"], validation=validation)
    given = row[prefix + "given_reward"]
    return None if given is None else GivenReward(given)
