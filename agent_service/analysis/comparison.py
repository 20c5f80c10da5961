"""Comparison of two policy versions by their decisions on the states of past runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agent_service.controllers.derivation import action_values
from agent_service.controllers.observations import observation_of
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import AnyPolicy, Situation


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """The states of a run, on which two versions are compared."""

    run_id: str
    states: Sequence[np.ndarray]
    """S_0, S_1, ...: float64[N] each."""
    contexts: Sequence[np.ndarray]
    """The policy's context with each state, float64 of the context's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Distance between two versions' decisions for one hyperparameter, in its own unit."""

    hyperparameter: str
    mean: float
    """Mean distance over all states, at least 0."""
    largest: float
    run_id: str
    """The run where it is largest."""
    chunk: int
    """Index of the decided chunk where it is largest, from 1."""
    one: float
    """The first version's decision there."""
    other: float


def differences(
    spec: ControllerSpec,
    versions: tuple[AnyPolicy, AnyPolicy],
    runs: Sequence[PastRun],
) -> list[Difference]:
    """Return how two versions differ on the states of runs, by hyperparameter.

    Args:
        spec: the controller's spec.
        versions: the two policies.
        runs: at least one, with at least one state.
    """
    places = [(run.run_id, chunk) for run in runs for chunk in range(1, len(run.states) + 1)]
    one, other = (
        [values for run in runs for values in _decisions(spec, policy, run)] for policy in versions
    )
    return [_difference(h.name, places, one, other) for h in spec.hyperparameters]


def _decisions(spec: ControllerSpec, policy: AnyPolicy, run: PastRun) -> Iterator[dict[str, float]]:
    """Yield a policy's decisions in a frozen run with the given states and contexts."""
    previous: Choice | None = None
    values: dict[str, float] | None = None
    for chunk, (state, context) in enumerate(zip(run.states, run.contexts, strict=True), start=1):
        previous = spec.algorithm.decide(
            spec,
            Situation(
                run_id=run.run_id,
                chunk=chunk,
                observation=observation_of(spec, state, context),
                mode=Mode.FROZEN,
                previous=previous,
                policy=policy,
            ),
        )
        values = action_values(spec, previous.sample, before=values)
        yield values


def _difference(
    name: str,
    places: Sequence[tuple[str, int]],
    one: Sequence[dict[str, float]],
    other: Sequence[dict[str, float]],
) -> Difference:
    distances = [abs(a[name] - b[name]) for a, b in zip(one, other, strict=True)]
    most = int(np.argmax(distances))
    run_id, chunk = places[most]
    return Difference(
        hyperparameter=name,
        mean=float(np.mean(distances)),
        largest=distances[most],
        run_id=run_id,
        chunk=chunk,
        one=one[most][name],
        other=other[most][name],
    )
