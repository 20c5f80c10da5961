"""What a controller is made from: its hyperparameters, its reward, its seed and its algorithm.

Specs are values: equal specs make controllers that decide alike. They are checked where they
are made, so every spec that exists is a valid one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral
from typing import ClassVar, Literal

from agent_service.domain.checks import (
    check_kind,
    check_name,
    fields_by_name,
    member,
    quoted,
    several,
)
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import (
    LONGEST_NAME,
    NAME,
    Hyperparameter,
    check_values,
)
from agent_service.domain.rewards import DEFINITIONS, Reward


class FrozenStart(StrEnum):
    """What a frozen run of a PPO controller starts with."""

    MEAN = "mean"
    """The policy's mean action at S_0."""
    UNIFORM = "uniform"
    """A uniform draw from the range, as the paper starts every run (Eq. 4)."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Another controller's policy to begin with, in place of random weights."""

    controller: str
    """The name of the controller that has the policy."""
    policy_version: int = 0
    """From 1; 0 is the newest when the controller is created, and replaced by its number then."""

    def __post_init__(self) -> None:
        """Check both; raises InvalidArgument naming the field."""
        check_name(self.controller, NAME, longest=LONGEST_NAME, field="controller")
        if self.policy_version < 0:
            raise invalid("policy_version", f"{self.policy_version} must be 0 or above")


class Settings:
    """What all algorithms' settings say of themselves."""

    __slots__ = ()

    learns_from_transitions: ClassVar[bool] = False
    """Whether updates of its policy learn from the chunks of its runs."""
    learns_from_scores: ClassVar[bool] = False
    """Whether a new policy version comes of each run's final score."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class PPOSettings(Settings):
    """Settings of a PPO controller; names and meaning are stable-baselines3's.

    Defaults that differ from stable-baselines3's: `gamma` is the paper's, and an update comes after
    `rollout_size` transitions of all runs together, since a run brings one every chunk only.
    `center_rewards`, `log_std_init` and `learning_rate` were measured on the simulated child, with
    8 runs of 40 chunks at once, reward `validation` and 10 seeds. How far the frozen policy was on
    the way from random rates to the optimum, in percent, mean [worst seed], after transitions:

        after                            1,000    3,000    5,000   10,000   15,000
        these defaults                  72 [66]  90 [82]  95 [92]  96 [92]  98 [96]
        learning_rate 3e-4, log_std -1  65 [61]  78 [71]  88 [84]  96 [93]  98 [97]
        log_std_init 0, lr 3e-4         67 [59]  91 [87]  84 [76]  74 [69]  74 [68]
        normalize_observations          69 [56]  87 [83]  87 [79]  88 [80]  88 [80]
        rewards not centred             62 [53]  62 [48]  66 [60]  73 [45]  80 [33]

    In these figures the drop rate also raises the losses a little, as it does in real training, so
    a state under a high rate looks like an earlier one with more return ahead of it.

    What is observed, and what the output means, likewise with 8 seeds, in one process where no
    decision lags behind an update (`python -m tests.benchmarks.bench_learning 8`):

        after                            1,000    3,000   10,000
        these defaults: losses alone   80 [70]  94 [88]  97 [94]
        observe_action                 80 [71]  92 [87]  97 [94]
        observe_progress               81 [74]  97 [94]  98 [95]
        observe_scores                 81 [75]  97 [93]  97 [90]
        all three                      82 [71]  97 [95]  99 [98]
        max_change 0.2                 66 [ 6]  65 [ 2]  63 [44]
        max_change 0.5                 42 [10]  58 [52]  57 [53]
        max_change 0.2, observe_action 76 [61]  91 [81]  96 [92]
        max_change 0.5, observe_action 79 [20]  89 [80]  96 [92]
        max_change 0.5, all three      79 [29]  96 [88]  97 [93]
        warm_start, at 3,000 elsewhere 95 [92]  96 [91]  98 [95]

    Changes of a place that is not observed are no better than a constant. This child forgets an
    action with its chunk, so bounded changes can only cost it; they are for children that jumps
    harm. Its warm start is from the same kind of child, under another seed.
    """

    learns_from_transitions: ClassVar[bool] = True

    kind: Literal["ppo"] = "ppo"
    rollout_size: int = 256
    """Transitions, of all runs together, that one update learns from."""
    batch_size: int = 64
    """Transitions in one gradient step."""
    n_epochs: int = 10
    """Passes over the rollout in one update."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    gamma: float = 0.995
    """Discount of the return, in [0, 1]."""
    gae_lambda: float = 0.95
    """Trade of bias for variance in the advantage, in [0, 1]."""
    clip_range: float = 0.2
    """Largest change of the probability ratio that is rewarded, above 0."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm, above 0."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden tanh layers, for policy and value each."""
    log_std_init: float = -0.7
    """Natural logarithm of exploration's initial deviation, in the policy's [-1, 1].

    Without effect on a warm start, which keeps its source's.

    With stable-baselines3's 0 most samples are clipped at a bound; the policy that is best together
    with such noise is too steep once it is frozen and the noise is gone.
    """
    normalize_observations: bool = False
    """Divide what is observed by its running deviation, after taking off its running mean.

    Off, as in stable-baselines3's PPO: it moves S_0, which is all zeros, out beyond a run's last
    state, and the policy's action there goes with it. For losses far from 1 in size.
    """
    center_rewards: bool = True
    """Take their running mean off the rewards before learning from them.

    Runs that go on to their planned end have the same best policy with it and without. Rewards like
    `validation`, about 0.7 in every chunk, otherwise make a value that mostly counts the chunks
    left; its errors, as a state does not tell its chunk exactly, are larger than what actions earn.
    """
    frozen_start: FrozenStart = FrozenStart.MEAN
    """What a frozen run starts with."""
    max_staleness: int = 10
    """Versions between deciding and learning at the most; older transitions are only recorded.

    Clipped importance ratios correct for a few versions. Where learning was 38 behind, the
    simulated child's policy ended at 89% of the way instead of 98%.
    """
    observe_action: bool = False
    """See what the chunk before ran under, too."""
    observe_progress: bool = False
    """See the share of the run's planned chunks that is trained; each run must tell its plan."""
    observe_scores: bool = False
    """See the newest scores (of a `given` reward: the reward) and their changes, too."""
    max_change: float | None = None
    """Take the output, times this, as a change of what the chunk before ran under.

    In units of the policy's [-1, 1], above 0 and at most 2. None takes it as the place itself. A
    run's first action is a place always, in learning and frozen runs alike: the policy's output at
    S_0 means the same whether it was drawn uniformly, learned, or is the mean. Set
    `observe_action` with it: a policy that does not see the place learns little about changing it.
    """
    warm_start: WarmStart | None = None
    """Begin with another controller's policy; None draws weights by the seed."""

    def __post_init__(self) -> None:
        """Check every range; raises InvalidArgument naming the setting."""
        object.__setattr__(self, "net_arch", several(self.net_arch, Integral, "net_arch", "64, 64"))
        start = member(FrozenStart, self.frozen_start, "frozen_start")
        object.__setattr__(self, "frozen_start", start)
        for name in ("rollout_size", "batch_size", "n_epochs", "max_staleness"):
            _at_least_one(name, getattr(self, name))
        if self.rollout_size < 2 or self.batch_size < 2:
            raise invalid(
                "rollout_size", "and batch_size must be at least 2 to normalize advantages"
            )
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            _positive(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            _share(name, getattr(self, name))
        for name in ("ent_coef", "vf_coef"):
            _not_negative(name, getattr(self, name))
        if not abs(self.log_std_init) <= MAX_LOG_STD:
            raise invalid(
                "log_std_init", f"{self.log_std_init} is not in [-{MAX_LOG_STD}, {MAX_LOG_STD}]"
            )
        if len(self.net_arch) > MAX_LAYERS:
            raise invalid("net_arch", f"has {len(self.net_arch)} layers; at most {MAX_LAYERS}")
        for width in self.net_arch:
            if not 1 <= width <= MAX_WIDTH:
                raise invalid("net_arch", f"{width} is not in [1, {MAX_WIDTH}]")
        if self.max_change is not None and not 0 < self.max_change <= 2:
            raise invalid("max_change", f"{self.max_change} must be above 0 and at most 2")


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSettings(Settings):
    """One value for each hyperparameter, for good (Figure 2, Diagram 1)."""

    kind: Literal["constant"] = "constant"
    values: Mapping[str, float]
    """By hyperparameter name, each within its range."""


class Shape(StrEnum):
    """The course of a hand-made schedule."""

    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"
    EXPONENTIAL = "exponential"
    """1 - exp(-10 progress): curriculum dropout's (Morerio et al. 2017)."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings(Settings):
    """Values that follow the run's progress and nothing else (Figure 2, Diagram 2)."""

    kind: Literal["schedule"] = "schedule"
    shape: Shape
    """The way from start to end."""
    start: Mapping[str, float]
    """Values for chunk 1, by hyperparameter name."""
    end: Mapping[str, float]
    """Values from chunk `chunks` on, by hyperparameter name."""
    chunks: int
    """Index of the chunk that is the first to run under `end`; at least 2."""
    steps: int = 1
    """Jumps of a step schedule, evenly placed; unused by the other shapes."""

    def __post_init__(self) -> None:
        """Check the shape and the lengths; raises InvalidArgument naming the setting."""
        object.__setattr__(self, "shape", member(Shape, self.shape, "shape"))
        if self.chunks < 2:
            raise invalid("chunks", f"{self.chunks} must be at least 2")
        _at_least_one("steps", self.steps)


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSettings(Settings):
    """A fresh uniform draw from the range for each chunk: the floor that learning must beat."""

    kind: Literal["random"] = "random"


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class BayesianSettings(Settings):
    """One value a run, proposed by Optuna's TPE from earlier runs' final scores (Figure 4).

    Names and defaults are those of Optuna's `TPESampler`. A frozen run takes the best value so far.
    """

    learns_from_scores: ClassVar[bool] = True

    kind: Literal["bayesian"] = "bayesian"
    n_startup_trials: int = 10
    """Ended runs before TPE proposes; until then values are drawn uniformly."""
    n_ei_candidates: int = 24
    """Candidates of which the most promising one is proposed."""

    def __post_init__(self) -> None:
        """Check the ranges; raises InvalidArgument naming the setting."""
        _at_least_one("n_startup_trials", self.n_startup_trials)
        _at_least_one("n_ei_candidates", self.n_ei_candidates)
        from agent_service.domain.trials import KEPT  # brings NumPy, which no client needs to start

        if self.n_startup_trials > KEPT:
            raise invalid("n_startup_trials", f"{self.n_startup_trials} must be at most {KEPT}")
        if self.n_ei_candidates > MAX_CANDIDATES:
            raise invalid(
                "n_ei_candidates", f"{self.n_ei_candidates} must be at most {MAX_CANDIDATES}"
            )


MAX_CANDIDATES = 48
"""Twice Optuna's default; more would let others' reports wait for a proposal."""


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings(Settings):
    """A finished run's values again, or given ones, chunk by chunk; after their end, the last."""

    kind: Literal["replay"] = "replay"
    run_id: str = ""
    """The run, of any controller with the same hyperparameters; empty where values are given."""
    values: tuple[Mapping[str, float], ...] = ()
    """What each chunk runs under, by name; a run's are filled in when the controller is created."""

    def __post_init__(self) -> None:
        """Check the kind of the values; raises InvalidArgument naming them."""
        values = several(self.values, Mapping, "values", "{'dropout': 0.1}, ...")
        object.__setattr__(self, "values", values)


Algorithm = (
    PPOSettings
    | ConstantSettings
    | ScheduleSettings
    | RandomSettings
    | BayesianSettings
    | ReplaySettings
)


@fields_by_name
@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSpec:
    """Everything that a controller is made from."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,62}`; unique in the service, for good."""
    chunk_size: int = 20
    """N: training losses in a chunk, and so the length of a state."""
    hyperparameters: tuple[Hyperparameter, ...]
    """What one action sets, at least one, of different names."""
    reward: Reward = Reward.GAP
    """What is learned from."""
    diverged_reward: float | None = None
    """Reward of the action whose chunk diverged, finite; None takes the reward's worst value.

    A `given` reward has none: there a diverged run ends with its last report, unless this is set.
    """
    seed: int = 0
    """Seed of every draw; unsigned 64 bits."""
    algorithm: Algorithm = field(default_factory=PPOSettings)
    """How actions are decided."""

    def __post_init__(self) -> None:
        """Check the parts against one another; raises InvalidArgument naming the field."""
        check_name(self.name, NAME, longest=LONGEST_NAME)
        object.__setattr__(self, "reward", member(Reward, self.reward, "reward"))
        example = "Hyperparameter('dropout', 0.0, 0.5)"
        given = several(self.hyperparameters, Hyperparameter, "hyperparameters", example)
        object.__setattr__(self, "hyperparameters", given)
        if not isinstance(self.algorithm, Algorithm):
            raise invalid("algorithm", f"{quoted(self.algorithm)} is none, as PPOSettings() is")
        check_kind(self.chunk_size, Integral, "chunk_size", "chunk_size=20")
        if not 1 <= self.chunk_size <= MAX_CHUNK_SIZE:
            raise invalid("chunk_size", f"{self.chunk_size} is not in [1, {MAX_CHUNK_SIZE}]")
        if not 1 <= len(self.hyperparameters) <= MAX_HYPERPARAMETERS:
            raise invalid(
                "hyperparameters", f"{len(self.hyperparameters)} given; 1 to {MAX_HYPERPARAMETERS}"
            )
        if len({h.name for h in self.hyperparameters}) < len(self.hyperparameters):
            raise invalid("hyperparameters", "two have the same name")
        if self.diverged_reward is not None and not math.isfinite(self.diverged_reward):
            raise invalid("diverged_reward", f"{self.diverged_reward} is not finite")
        if not 0 <= self.seed < 2**64:
            raise invalid("seed", f"{self.seed} is not an unsigned 64-bit integer")
        self._check_algorithm()

    @property
    def reward_of_divergence(self) -> float | None:
        """The reward of an action whose chunk diverged; None where it earns none."""
        if self.diverged_reward is not None:
            return self.diverged_reward
        return DEFINITIONS[self.reward].worst

    @property
    def learns_from_transitions(self) -> bool:
        """Whether updates of its policy learn from the chunks of its runs."""
        return self.algorithm.learns_from_transitions

    @property
    def learns_from_scores(self) -> bool:
        """Whether a new policy version comes of each run's final score."""
        return self.algorithm.learns_from_scores

    def _check_algorithm(self) -> None:
        """Check values that name hyperparameters against their ranges."""
        if isinstance(self.algorithm, ConstantSettings):
            check_values(self.hyperparameters, self.algorithm.values, field="constant.values")
        if isinstance(self.algorithm, ScheduleSettings):
            check_values(self.hyperparameters, self.algorithm.start, field="schedule.start")
            check_values(self.hyperparameters, self.algorithm.end, field="schedule.end")
        if isinstance(self.algorithm, ReplaySettings):
            self._check_replay(self.algorithm)

    def _check_replay(self, replay: ReplaySettings) -> None:
        if not replay.run_id and not 1 <= len(replay.values) <= MAX_REPLAYED:
            raise invalid(
                "replay.values",
                f"{len(replay.values)} given; name a run_id, or give 1 to {MAX_REPLAYED}",
            )
        for place, values in enumerate(replay.values):
            field = "replay.run_id" if replay.run_id else f"replay.values[{place}]"
            check_values(self.hyperparameters, values, field=field)


MAX_REPLAYED = 10_000
"""Chunks whose values may be given at the most."""
MAX_LAYERS, MAX_WIDTH = 4, 512
"""Hidden layers of a policy, and their width, at the most: 25 MB with the optimizer's state."""
MAX_LOG_STD = 20.0
"""Beyond it a deviation leaves what a float32 can hold."""
MAX_CHUNK_SIZE = 10_000
"""Losses in a chunk at the most; a report of that length is 80 kB."""
MAX_HYPERPARAMETERS = 64
"""Hyperparameters of a controller at the most."""


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise invalid(name, f"{value} must be at least 1")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise invalid(name, f"{value} must be above 0")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise invalid(name, f"{value} must be 0 or above")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise invalid(name, f"{value} is not in [0, 1]")
