"""The PPO controller: its settings, their sizes, and how it acts; it learns in `learning`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar, Literal

from agent_service.controllers.draws import generator, uniform_choice
from agent_service.controllers.observations import check_scores, observation_size
from agent_service.domain.checks import check_at_least_one, fields_by_name, member, several
from agent_service.domain.errors import invalid, within
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import (
    ControllerSpec,
    Observe,
    Settings,
    Stored,
    WarmStart,
    set_fields,
)
from agent_service.domain.trials import TrialHistory

if TYPE_CHECKING:
    from agent_service.domain.store import Situation

MAX_LAYERS, MAX_WIDTH = 4, 512
"""Hidden layers of a policy, and their width, at the most: 25 MB with the optimizer's state."""
MAX_LOG_STD = 20.0
"""Beyond it a deviation leaves what a float32 can hold."""
MAX_PARAMETERS = 2_000_000
"""Of policy and value network together: a version takes 12 bytes for each, 24 MB."""
MAX_ROLLOUT_NUMBERS = 2**24
"""Numbers observed in a rollout; an update has some 50 bytes in memory for each."""
MAX_UPDATE_WORK = 250_000_000_000
"""Of one update, in the units of `_work_of_epoch`: some 25 s of a core. One of PPO's defaults, for
256 transitions, takes 0.1 s."""


class FrozenStart(StrEnum):
    """First action of a frozen run of a PPO controller."""

    MEAN = "mean"
    """The policy's mean action at S_0."""
    UNIFORM = "uniform"
    """A uniform draw from the range, as the paper starts every run (Eq. 4)."""


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
    decision lags behind an update (`python -m tests.benchmarks.bench_learning 8` measures it
    through the service):

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
    """First action of a frozen run."""
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
    """Begin with another controller's policy, or the package's; None draws weights by the seed.

    The package's see universal observations, in networks of (64, 64).
    """
    observe: Observe = Observe.LOSSES
    """The losses, and what the three settings above add to them; or the universal observations.

    Those hold the action, the progress and the scores already, and no loss by itself, so that one
    policy serves any problem and any chunk size: set none of the three beside them.
    """

    def __post_init__(self) -> None:
        """Check every range; raises InvalidArgument naming the setting."""
        object.__setattr__(self, "net_arch", several(self.net_arch, Integral, "net_arch", "64, 64"))
        start = member(FrozenStart, self.frozen_start, "frozen_start")
        object.__setattr__(self, "frozen_start", start)
        object.__setattr__(self, "observe", member(Observe, self.observe, "observe"))
        if isinstance(self.warm_start, Mapping):
            with within("warm_start."):
                object.__setattr__(self, "warm_start", WarmStart(**self.warm_start))
        for name in ("rollout_size", "batch_size", "n_epochs", "max_staleness"):
            check_at_least_one(name, getattr(self, name))
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
        if self.observe is Observe.UNIVERSAL:
            for name in ("observe_action", "observe_progress", "observe_scores"):
                if getattr(self, name):
                    raise invalid(name, "is part of the universal observations; leave it out")
        elif self.warm_start is not None and (shipped := self.warm_start.pretrained):
            raise invalid(
                "observe", f"is {self.observe}; {shipped!r} sees universal: set observe='universal'"
            )
        if len(self.net_arch) > MAX_LAYERS:
            raise invalid("net_arch", f"has {len(self.net_arch)} layers; at most {MAX_LAYERS}")
        for width in self.net_arch:
            if not 1 <= width <= MAX_WIDTH:
                raise invalid("net_arch", f"{width} is not in [1, {MAX_WIDTH}]")
        if self.max_change is not None and not 0 < self.max_change <= 2:
            raise invalid("max_change", f"{self.max_change} must be above 0 and at most 2")

    def __setstate__(self, state: Sequence[object]) -> None:
        """Take the fields of a pickle, also of an older release."""
        set_fields(self, state)

    @property
    def policy_settings(self) -> PPOSettings:
        """These settings: the policy is its own."""
        return self

    def check_size(self, spec: ControllerSpec) -> None:
        """Check the network, the rollout and the work of an update; raises InvalidArgument."""
        check_scores(spec)
        count, observed = parameters(spec), observation_size(spec)
        if count > MAX_PARAMETERS:
            raise invalid(
                "net_arch",
                f"{list(self.net_arch)} makes {count:,} parameters of the {observed:,} numbers "
                f"observed; at most {MAX_PARAMETERS:,}: lower net_arch or chunk_size",
            )
        if (numbers := self.rollout_size * observed) > MAX_ROLLOUT_NUMBERS:
            raise invalid(
                "rollout_size",
                f"{self.rollout_size} times {observed:,} numbers observed are {numbers:,}; at most "
                f"{MAX_ROLLOUT_NUMBERS:,}: lower rollout_size or chunk_size",
            )
        if self.n_epochs > (most := MAX_UPDATE_WORK // _work_of_epoch(spec)):
            raise invalid(
                "n_epochs",
                f"{self.n_epochs} passes over {self.rollout_size} transitions would keep other "
                f"controllers from learning; at most {most}: lower n_epochs, rollout_size or "
                "net_arch, or raise batch_size",
            )

    def completed(self, there: Settings | None, stored: Stored) -> PPOSettings:
        """Give a warm start that asks for a controller's newest version its number."""
        start = self.warm_start
        if start is None or start.policy_version or start.pretrained:
            return self
        if there is None:
            version = stored.policy_version(start.controller)
        else:
            version = 0 if there.warm_start is None else there.warm_start.policy_version
        return replace(self, warm_start=replace(start, policy_version=version))

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        """Return the action: uniform at first, then sampled; the mean where the run is frozen."""
        policy, is_learning = situation.policy, situation.mode is Mode.LEARNING
        assert not isinstance(policy, TrialHistory | None)
        if situation.chunk == 1 and (is_learning or self.frozen_start is FrozenStart.UNIFORM):
            return uniform_choice(spec, situation)
        if not is_learning:
            return mean_choice(situation)
        draws = generator(seed=spec.seed, run_id=situation.run_id, chunk=situation.chunk)
        noise = draws.standard_normal(len(spec.hyperparameters))
        sample, log_probability = policy.sample(situation.observation, noise)
        return Choice(tuple(sample.tolist()), log_probability=log_probability, explored=True)


def mean_choice(situation: Situation) -> Choice:
    """Return the mean action of the situation's policy."""
    policy = situation.policy
    assert not isinstance(policy, TrialHistory | None)
    mean = policy.mean(situation.observation)
    return Choice(tuple(mean.tolist()), log_probability=0.0, explored=False)


def ppo_settings(spec: ControllerSpec) -> PPOSettings:
    """Return the settings of the policy that a controller decides by.

    Raises:
        InvalidArgument: its kind has no such policy.
    """
    settings = spec.algorithm.policy_settings
    if settings is None:
        raise invalid("spec.algorithm", f"{spec.algorithm.kind} has no policy network")
    return settings


def parameters(spec: ControllerSpec) -> int:
    """Return how many parameters a controller's policy has, its value network's too."""
    widths = (observation_size(spec), *ppo_settings(spec).net_arch)
    hidden = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    actions = len(spec.hyperparameters)
    return 2 * hidden + (widths[-1] + 1) * (actions + 1) + actions


def affordable_epochs(spec: ControllerSpec) -> int:
    """Return how many passes over its rollout an update may take at the most; 1 at least.

    A stored controller goes on where its settings ask for more.
    """
    return max(1, MAX_UPDATE_WORK // _work_of_epoch(spec))


def _work_of_epoch(spec: ControllerSpec) -> int:
    """Return the work of one pass, in multiplications of a parameter with a sample, 0.1 ns each.

    A gradient step costs 20 million of them, 2 ms, and Adam as much as 80 samples (measured).
    """
    settings, count = ppo_settings(spec), parameters(spec)
    size = settings.rollout_size
    steps = -(-size // min(settings.batch_size, size))
    return size * count + steps * (20_000_000 + 80 * count)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise invalid(name, f"{value} must be above 0")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise invalid(name, f"{value} must be 0 or above")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise invalid(name, f"{value} is not in [0, 1]")
