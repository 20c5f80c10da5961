"""Checks whether a run can continue from another one's end."""

from __future__ import annotations

from dataclasses import fields

from agent_service.domain.errors import FieldViolation, InvalidArgument
from trainer_service.runs.run import Run
from trainer_service.training.spec import TrainingSpec

_OWN = ("values", "chunks", "epochs")
"""Fields of the training spec that may differ from the parent's."""


def check_continues(spec: TrainingSpec, parent: Run) -> None:
    """Check that a training can continue from its parent's end.

    Raises:
        InvalidArgument: naming each field that must equal the parent's, or a length that adds no
            chunk.
    """
    before = parent.spec.training
    # Where the loss trains a strength, its value is the initial one of the whole training.
    own = ("chunks", "epochs") if spec.regularizer.is_trained else _OWN
    violations = [
        FieldViolation(field.name, f"must be as the parent's, {getattr(before, field.name)!s}")
        for field in fields(TrainingSpec)
        if field.name not in own and getattr(spec, field.name) != getattr(before, field.name)
    ]
    least = parent.trained_chunks + 1
    if spec.chunks is None or spec.chunks < least:
        text = f"must be at least {least}: they count on from the parent's {parent.trained_chunks}"
        violations.append(FieldViolation("chunks", text))
    if violations:
        raise InvalidArgument(*violations)
