"""From the log to an off-policy estimate: which runs count, and what the target thinks of them.

The target is judged as a learning run of it would go that never updates: a uniform A_0, as every
learning run has, then its samples. So chunk 1 weighs nothing: the behaviour starts alike.

Samples of a PPO policy are Gaussian and not clipped, so they cover every target: a uniform one has
no density outside [-1, 1]^h, and such samples weigh nothing. Uniform samples cover a Gaussian
target inside [-1, 1]^h only. What it draws outside would run as a bound, which uniform samples
almost never are, so then its density is that of the target restricted to the range.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent_service.analysis.estimates import Episode
from agent_service.analysis.policies import LoggedPolicy, read_policy
from agent_service.controllers.observations import context_size
from agent_service.domain.errors import FailedPrecondition, invalid
from agent_service.domain.specs import ControllerSpec, PPOSettings, RandomSettings
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.analysis.reading import LogReader

_CUT = (pb.OUTCOME_TRUNCATED, pb.OUTCOME_CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The runs of a behaviour as a target sees them."""

    episodes: list[Episode]
    horizon: int
    """Chunks that count."""
    left_out: Mapping[str, int]
    """How many runs do not count, by reason."""


def read_evaluation(
    log: LogReader, *, behaviour: str, target: str, version: int, horizon: int | None
) -> Evaluation:
    """Read a behaviour's finished runs, and what the target's version (0: newest) thinks of them.

    Args:
        log: of the service that has both.
        behaviour: a controller whose logged decisions were sampled: ppo or random.
        target: a controller with the same hyperparameters, chunk size and reward: ppo or random.
        version: of the target's policy.
        horizon: chunks that count, at least 1; None takes the longest run.

    Raises:
        NotFound: no such controller or version.
        InvalidArgument: the two controllers do not mean the same by their numbers.
        FailedPrecondition: either decides without chance, or no run is left.
    """
    drawn_by, target_spec = (_sampling_spec(log, name) for name in (behaviour, target))
    _check_same(drawn_by, target_spec)
    policy = None
    if isinstance(target_spec.algorithm, PPOSettings):
        policy = read_policy(log, target, version)
    elif version:
        raise invalid("target", f"{target!r} is random: it has no policy version {version}")
    runs = {run.run_id: _Judged(run) for run in log.list_runs(controller=behaviour)}
    is_uniform = isinstance(drawn_by.algorithm, RandomSettings)
    for transition in log.transitions(controller=behaviour):
        if transition.run_id in runs:  # else it was started since they were listed
            runs[transition.run_id].add(transition, policy, drawn_uniformly=is_uniform)
    return _selected(behaviour, runs.values(), horizon)


def _sampling_spec(log: LogReader, name: str) -> ControllerSpec:
    spec = convert.spec_from_message(log.get_controller(name).spec)
    if not isinstance(spec.algorithm, PPOSettings | RandomSettings):
        raise FailedPrecondition(
            f"controller {name!r} is {spec.algorithm.kind}: it decides without chance, so its "
            "decisions have no probabilities to weigh by; name a ppo or a random controller"
        )
    return spec


def _check_same(behaviour: ControllerSpec, target: ControllerSpec) -> None:
    """Check that samples and rewards of the one mean the same in the other."""
    for what in ("hyperparameters", "chunk_size", "reward", "reward_of_divergence"):
        theirs, ours = getattr(behaviour, what), getattr(target, what)
        if theirs != ours:
            raise invalid(
                "target",
                f"{target.name!r} has {what} {ours}, the behaviour {behaviour.name!r} {theirs}; "
                "they must be equal",
            )
    if _limit(behaviour) != _limit(target):
        raise invalid("target", f"{target.name!r} has another max_change than the behaviour")
    if context_size(target) and _context(target) != _context(behaviour):
        raise invalid(
            "target", f"{target.name!r} observes what the log of {behaviour.name!r} does not hold"
        )


def _limit(spec: ControllerSpec) -> float | None:
    return spec.algorithm.max_change if isinstance(spec.algorithm, PPOSettings) else None


def _context(spec: ControllerSpec) -> tuple[bool, ...] | None:
    """Return what a policy sees beside the losses; None where the algorithm sees nothing."""
    settings = spec.algorithm
    if not isinstance(settings, PPOSettings):
        return None
    return settings.observe_action, settings.observe_progress, settings.observe_scores


class _Judged:
    """One run of the behaviour, chunk by chunk, as the target sees it."""

    def __init__(self, run: pb.Run) -> None:
        self._run = run
        self._rewards, self._log_ratios, self._log_covered = array("d"), array("d"), array("d")
        self._is_sure = self._is_other = False

    def add(
        self, transition: pb.Transition, target: LoggedPolicy | None, *, drawn_uniformly: bool
    ) -> None:
        """Add the next transition; `target` None is the uniform one."""
        self._is_sure |= not transition.action.explored
        self._is_other |= transition.HasField("applied")
        drawn_uniformly |= transition.chunk_index == 1
        if target is None or transition.chunk_index == 1:
            density, covered = _log_uniform(transition.sample), 0.0
        elif not drawn_uniformly:
            density, covered = target.log_probability(transition), 0.0
        else:
            covered = target.log_inside(transition)
            is_possible = covered > -math.inf
            density = target.log_probability(transition) - covered if is_possible else -math.inf
        self._rewards.append(transition.reward)
        self._log_ratios.append(density - transition.log_probability)
        self._log_covered.append(covered)

    def __len__(self) -> int:
        return len(self._rewards)

    def objection(self) -> str | None:
        """Return why the run cannot count, whatever the horizon; None where it can."""
        if self._run.state != pb.RUN_STATE_FINISHED:
            return "not finished"
        if not len(self):
            return "without a chunk"
        if self._is_other:
            return "under values of their own"
        return "decided without chance" if self._is_sure else None

    def is_cut_before(self, horizon: int) -> bool:
        """Whether what it would have earned up to the horizon is not known."""
        return self._run.outcome in _CUT and len(self) < horizon

    def episode(self) -> Episode:
        """Return the run as the estimate takes it."""
        return Episode(
            rewards=np.array(self._rewards),
            log_ratios=np.array(self._log_ratios),
            log_covered=np.array(self._log_covered),
        )


def _log_uniform(sample: Iterable[float]) -> float:
    units = list(sample)
    return -len(units) * math.log(2.0) if all(-1 <= u <= 1 for u in units) else -math.inf


def _selected(behaviour: str, runs: Iterable[_Judged], horizon: int | None) -> Evaluation:
    left_out: Counter[str] = Counter()
    usable = []
    for run in runs:
        objection = run.objection()
        if objection is None:
            usable.append(run)
        else:
            left_out[objection] += 1
    longest = max(map(len, usable), default=1)
    chunks = horizon or longest
    if chunks > longest:
        raise invalid("horizon", f"{horizon} is above the longest run's {longest} chunks")
    whole = [run.episode() for run in usable if not run.is_cut_before(chunks)]
    if len(whole) < len(usable):
        left_out[f"cut before chunk {chunks}"] += len(usable) - len(whole)
    if not whole:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise FailedPrecondition(
            f"no run of controller {behaviour!r} can be weighed ({reasons or 'it has none'}); it "
            "takes finished runs whose decisions were all sampled and applied"
        )
    return Evaluation(episodes=whole, horizon=chunks, left_out=left_out)
