"""The file form of a trial history: JSON with the values and the score of each trial.

Reading a stranger's file runs no code, and takes nothing that a decision could choke on.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from agent_service.domain.errors import InvalidArgument, invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.trials import KEPT, TrialHistory

_Trial = tuple[tuple[FiniteFloat, ...], FiniteFloat | None]
"""Values in the order and unit of the hyperparameters; the score, null where the run diverged."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class _TrialFile:
    format: Literal[1] = 1
    """Version of the file form; a file of another one is refused."""
    hyperparameters: tuple[Hyperparameter, ...]
    trials: Annotated[tuple[_Trial, ...], Field(max_length=KEPT)]
    """In the order of the runs' ends."""


_FILE = TypeAdapter(_TrialFile)


def to_bytes(history: TrialHistory, spec: ControllerSpec) -> bytes:
    """Return the file form: equal histories and specs give equal bytes."""
    trials = tuple(
        (_values(spec, sample), None if math.isnan(score) else score)
        for sample, score in zip(history.samples.tolist(), history.scores.tolist(), strict=True)
    )
    return _FILE.dump_json(_TrialFile(hyperparameters=spec.hyperparameters, trials=trials))


def _values(spec: ControllerSpec, sample: list[float]) -> tuple[float, ...]:
    return tuple(h.value(unit) for h, unit in zip(spec.hyperparameters, sample, strict=True))


def largest(spec: ControllerSpec) -> int:
    """Return how many bytes the file of a history of `spec` has at the most."""
    return 65_536 + KEPT * (64 + 32 * len(spec.hyperparameters))


def from_bytes(data: bytes, spec: ControllerSpec) -> TrialHistory:
    """Read the file form, from the store or from a stranger, for a controller of `spec`.

    Raises:
        InvalidArgument: field `policy`, saying what is wrong with the file and what would be right.
    """
    limit = largest(spec)
    if len(data) > limit:
        raise invalid("policy", f"has {len(data)} bytes; this controller's have at most {limit}")
    try:
        file = _FILE.validate_json(data)
    except (ValidationError, InvalidArgument) as error:
        raise invalid("policy", f"is no file of trials: {error!s:.199}") from error
    if file.hyperparameters != spec.hyperparameters:
        raise invalid(
            "policy",
            f"was made for {file.hyperparameters!r:.199}, here: {spec.hyperparameters!r:.199}",
        )
    samples = [_sample(spec, values, place) for place, (values, _) in enumerate(file.trials)]
    scores = [math.nan if score is None else score for _, score in file.trials]
    return TrialHistory(
        np.array(samples, dtype=np.float64).reshape(-1, len(spec.hyperparameters)),
        np.array(scores, dtype=np.float64),
    )


def _sample(spec: ControllerSpec, values: tuple[float, ...], place: int) -> list[float]:
    """Return a trial's values in the policy's [-1, 1]; raises InvalidArgument."""
    if len(values) != len(spec.hyperparameters):
        raise invalid("policy", f"trial {place} has {len(values)} values, not one for each")
    for h, value in zip(spec.hyperparameters, values, strict=True):
        if not h.low <= value <= h.high:
            raise invalid("policy", f"trial {place}: {value} is not in [{h.low}, {h.high}]")
    return [h.unit(value) for h, value in zip(spec.hyperparameters, values, strict=True)]
