"""How decisions and actions follow from what is stored: for live calls, `verify` and replays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agent_service.controllers.observations import observation_of, observed_context
from agent_service.domain.hyperparameters import named_values, places_of
from agent_service.domain.rewards import Feedback
from agent_service.domain.runs import Choice, Decision, Run
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import AnyPolicy, Situation


@dataclass(frozen=True, slots=True)
class Derived:
    """The decision that follows from a report, or from a run's start."""

    context: np.ndarray
    """The policy's observations beside the losses, float64."""
    choice: Choice
    values: Mapping[str, float]
    """The action: hyperparameter values by name."""


def derive(
    run: Run,
    running: Decision | None,
    *,
    state: np.ndarray,
    feedback: Feedback | None,
    applied: Mapping[str, float] | None,
    policy: AnyPolicy | None,
) -> Derived:
    """Derive what is decided after a report.

    Args:
        run: the run.
        running: the decision that was for the reported chunk; None at the run's start.
        state: the reported losses, float64[N]; zeros at the start.
        feedback: of the reported chunk; None at the start.
        applied: what the chunk truly ran under, where it was not the decided values.
        policy: the version to decide by; None where the algorithm has none.
    """
    # What the reported chunk truly ran under; None before a run's first chunk.
    ran = running.values if applied is None and running is not None else applied
    spec = run.controller.spec
    context = observed_context(run, running, state=state, feedback=feedback, ran=ran)
    choice = spec.algorithm.decide(
        spec,
        Situation(
            run_id=run.id,
            chunk=1 if running is None else running.chunk + 1,
            observation=observation_of(spec, state, context),
            mode=run.mode,
            previous=None if running is None else running.choice,
            policy=policy,
        ),
    )
    values = action_values(spec, choice.sample, before=ran)
    if not all(map(math.isfinite, (choice.log_probability, *choice.sample, *values.values()))):
        # Stored, it would make the log unreadable.
        raise ValueError(f"a {spec.algorithm.kind} controller decided what is not finite: {choice}")
    return Derived(context, choice, values)


def action_values(
    spec: ControllerSpec,
    sample: Sequence[float],
    *,
    before: Mapping[str, float] | None,
) -> dict[str, float]:
    """Return the values, by name, that a controller's output leads to.

    Args:
        spec: of the controller.
        sample: the output in [-1, 1], h numbers, not clipped.
        before: what the chunk before ran under; None for a run's first chunk, whose action is a
            place even where later ones are changes: there is nothing to change.
    """
    limit = spec.algorithm.max_change
    if limit is None or before is None:
        return named_values(spec.hyperparameters, sample)
    moved = [
        place + limit * min(max(share, -1.0), 1.0)
        for place, share in zip(places_of(spec.hyperparameters, before), sample, strict=True)
    ]
    return named_values(spec.hyperparameters, moved)
