"""Observations of a policy: the losses, last values, the run's progress, the scores' trend.

Derived from what is stored of the run, so that `verify` derives it again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent_service.controllers import universal
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import places_of
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import REWARDS, Feedback, GivenReward, Scores
from agent_service.domain.runs import Decision, Run, StartRun
from agent_service.domain.specs import ControllerSpec, Observe

if TYPE_CHECKING:
    import numpy as np

_LARGEST = sys.float_info.max


def observation_size(spec: ControllerSpec) -> int:
    """Return how many numbers a policy of `spec` sees: see `observation_of`."""
    if spec.algorithm.observe is Observe.UNIVERSAL:
        return context_size(spec)
    return spec.chunk_size + context_size(spec)


def observation_of(spec: ControllerSpec, state: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Return what a policy of `spec` sees, float64: the N losses, then the context.

    Universal observations are the context alone.
    """
    import numpy as np  # here alone: the client imports this file, and needs none of it for that

    if spec.algorithm.observe is Observe.UNIVERSAL:
        return context
    return np.concatenate([state, context]) if context.size else state


def context_size(spec: ControllerSpec) -> int:
    """Return how many numbers a policy of `spec` sees beside the losses."""
    if spec.algorithm.observe is Observe.UNIVERSAL:
        return universal.size(len(spec.hyperparameters))
    settings = spec.algorithm
    scores = 1 if REWARDS[spec.reward].is_given else 2
    return (
        len(spec.hyperparameters) * settings.observe_action
        + settings.observe_progress
        + 2 * scores * settings.observe_scores
    )


def observed_context(
    run: Run,
    running: Decision | None,
    *,
    state: np.ndarray,
    feedback: Feedback | None,
    ran: Mapping[str, float] | None,
) -> np.ndarray:
    """Return what the run's policy sees beside the losses of the reported chunk, float64.

    In this order, as far as the controller observes it: the places of what the chunk ran under,
    the share of planned chunks that is trained, the newest scores, and their changes since the
    chunk before (0 for the first). All zeros before the first report. Or all of the universal
    observations, where the controller has those.

    Args:
        run: the run; a chunk past its plan counts as its last.
        running: the decision that was for the reported chunk; None before the first report.
        state: the reported losses, float64[N].
        feedback: of the reported chunk.
        ran: what the chunk ran under.
    """
    import numpy as np  # here alone: the client imports this file, and needs none of it for that

    spec, settings = run.controller.spec, run.controller.spec.algorithm
    if spec.algorithm.observe is Observe.UNIVERSAL:
        return _universal(run, running, state=state, feedback=feedback, ran=ran)
    if running is None or ran is None:
        return np.zeros(context_size(spec))
    context: list[float] = []
    if settings.observe_action:
        context += places_of(spec.hyperparameters, ran)
    if settings.observe_progress:
        context.append(_progress(running.chunk, run.planned_chunks))
    if settings.observe_scores:
        assert feedback is not None, "a chunk is reported with its feedback"
        context += _trend(feedback, running.feedback)
    # Two finite rewards may lie further apart than a number can tell.
    return np.clip(context, -_LARGEST, _LARGEST) if context else np.zeros(0)


def check_scores(spec: ControllerSpec, *, field: str = "observe") -> None:
    """Check that a run reports the scores that are observed; raises InvalidArgument of `field`."""
    if spec.algorithm.observe is Observe.UNIVERSAL and REWARDS[spec.reward].is_given:
        raise invalid(
            field,
            f"universal observations need scores, which reward `{spec.reward}` does without; "
            "take another reward",
        )


def _universal(
    run: Run,
    running: Decision | None,
    *,
    state: np.ndarray,
    feedback: Feedback | None,
    ran: Mapping[str, float] | None,
) -> np.ndarray:
    spec = run.controller.spec
    setting = universal.Setting(
        problem=run.problem or Problem(),
        planned_chunks=run.planned_chunks,
        chunk_size=spec.chunk_size,
        hyperparameters=len(spec.hyperparameters),
    )
    if running is None or ran is None:
        return universal.first(setting)
    assert isinstance(feedback, Scores), "no spec with a given reward observes these"
    report = universal.Report(
        chunk=running.chunk,
        losses=state.tolist(),
        scores=feedback,
        places=places_of(spec.hyperparameters, ran),
    )
    return universal.following(setting, running.context, report)


def check_plan(start: StartRun, spec: ControllerSpec) -> None:
    """Check that a run of a controller that observes progress says how long it will be.

    A stand-in for the unknown share would mean another thing than the share, and a policy that
    learned from both would be misled by each.

    Raises:
        InvalidArgument: field `planned_chunks`, where it is missing.
    """
    if spec.algorithm.observe_progress and start.planned_chunks is None:
        raise invalid(
            "planned_chunks",
            f"is not set; controller {spec.name!r} observes progress, so say how many chunks "
            "the training plans",
        )


def _progress(chunk: int, planned: int | None) -> float:
    """Return the share of the plan, in [0, 1]; 0 without one, which no such run starts without."""
    return 0.0 if planned is None else min(chunk / planned, 1.0)


def _trend(newest: Feedback, before: Feedback | None) -> list[float]:
    scores = _scores(newest)
    earlier = scores if before is None else _scores(before)
    return scores + [now - then for now, then in zip(scores, earlier, strict=True)]


def _scores(feedback: Feedback) -> list[float]:
    if isinstance(feedback, GivenReward):
        return [feedback.value]
    return [feedback.training, feedback.validation]
