"""A rollout as an update takes it, and what the update makes of it; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from agent_service.controllers.observations import observation_of
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import LearnableTransition
from agent_service.learning.snapshot import FloatArray, PolicySnapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """Consecutive transitions of one run: T of them, with h hyperparameters."""

    observations: FloatArray
    """float64[T, o]: see `observations.observation_of`."""
    samples: FloatArray
    """float64[T, h], the actions in the policy's [-1, 1], not clipped."""
    log_probabilities: FloatArray
    """float64[T], of the samples under the behaviour that drew them."""
    rewards: FloatArray
    """float64[T]."""
    next_observation: FloatArray
    """float64[o]: what was observed after the last transition."""
    terminated: bool
    """Whether the run ended by its own plan there; if not, the value bootstraps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """The result of one update."""

    snapshot: PolicySnapshot
    """The next policy version."""
    statistics: dict[str, float]
    """approx_kl, clip_fraction, entropy (nats), explained_variance, policy_loss, value_loss; one
    that is undefined, as the explained variance of equal returns, is left out."""
    restarted: str = ""
    """Why the optimizer and the reward's statistics were started anew; empty where they went on."""


class UpdateError(Exception):
    """The update left what no policy can hold; keep the old policy, skip the rollout."""


class UpdateTimeout(UpdateError):
    """The update took longer than one may."""


def segments(transitions: Sequence[LearnableTransition], spec: ControllerSpec) -> list[Segment]:
    """Group transitions by run into consecutive ones, runs in the order of their first place."""
    order: dict[str, int] = {}
    for t in transitions:
        order.setdefault(t.transition.decision.run_id, len(order))

    def run_and_gaps(entry: tuple[int, LearnableTransition]) -> tuple[int, int]:
        # Consecutive chunks keep their distance to the place in the run's list.
        place, t = entry
        decision = t.transition.decision
        return order[decision.run_id], decision.chunk - place

    by_run = sorted(
        transitions,
        key=lambda t: (order[t.transition.decision.run_id], t.transition.decision.chunk),
    )
    return [
        _segment([t for _place, t in group], spec)
        for _key, group in groupby(enumerate(by_run), key=run_and_gaps)
    ]


def _segment(transitions: Sequence[LearnableTransition], spec: ControllerSpec) -> Segment:
    steps = [t.transition for t in transitions]
    last = steps[-1]
    observations = [observation_of(spec, s.decision.state, s.decision.context) for s in steps]
    return Segment(
        observations=np.stack(observations),
        samples=np.array([step.decision.choice.sample for step in steps]),
        log_probabilities=np.array([step.decision.choice.log_probability for step in steps]),
        rewards=np.array([step.reward for step in steps]),
        next_observation=observation_of(spec, last.next_state, last.next_context),
        terminated=transitions[-1].ends_episode,
    )
