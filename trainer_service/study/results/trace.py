"""The course of a run, by chunk, as results keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from agent_service.domain.errors import invalid
from trainer_service.runs.run import ChunkTrained


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Values of a run's chunks, in order."""

    # A validation loss may be infinite, or none: JSON's own null would not be read again.
    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    training_loss: tuple[float, ...]
    """Mean of the chunk."""
    validation_loss: tuple[float, ...]
    training_score: tuple[float, ...]
    validation_score: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    """Values in force, by hyperparameter."""
    policy_version: tuple[int, ...] = ()
    """Version of the policy that decided each chunk; 0 without a policy."""

    def __post_init__(self) -> None:
        """Check that all are of as many chunks; raises InvalidArgument."""
        columns = [self.validation_loss, self.training_score, self.validation_score]
        columns += self.values.values()
        if {len(column) for column in columns} - {len(self.training_loss)}:
            raise invalid("trace", "has columns of different lengths")


def make_trace(chunks: Sequence[ChunkTrained]) -> Trace:
    """Return the course of a run."""
    trained = [c.chunk for c in chunks]
    names = trained[0].values if trained else {}
    return Trace(
        training_loss=tuple(sum(c.losses) / len(c.losses) for c in trained),
        validation_loss=tuple(c.validation_loss for c in trained),
        training_score=tuple(c.training_score for c in trained),
        validation_score=tuple(c.validation_score for c in trained),
        values={name: tuple(c.values[name] for c in trained) for name in names},
        policy_version=tuple(c.policy_version for c in chunks),
    )
