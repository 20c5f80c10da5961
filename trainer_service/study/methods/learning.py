"""Methods whose controller learns: the paper's PPO policies, RNI and RD, and Bayesian search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import REWARDS, Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import Settings
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.choosing import Budgeted
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.plan import TUNING_SEEDS, Phase, Plan
from trainer_service.study.methods.steered import Steered
from trainer_service.training.spec import Sites, TrainingSpec

if TYPE_CHECKING:
    from trainer_service.study.methods.carried import Carried
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec

RECENT = 8
"""Window of the running mean, in children."""


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and up to RECENT - 1 before it."""
    return [float(np.mean(values[max(0, i - RECENT + 1) : i + 1])) for i in range(len(values))]


class Learning(Budgeted, Steered):
    """A method whose controller learns from the budget's children, then is frozen."""

    __slots__ = ()

    def tuning(self, plan: Plan) -> list[RunSpec]:
        """Return the runs that it learns from."""
        name = plan.controller(self.name)
        return [
            self.steered(plan.spec, name, Mode.LEARNING, TUNING_SEEDS + place)
            for place in range(self.tuned_children(plan.spec))
        ]

    @property
    def transitions(self) -> int:
        """Transitions of one policy update; 0 if it does not learn from transitions."""
        return 0

    def tune(self, work: Work) -> str:
        """Learn the policy unless the folder has it, and freeze it at the agent service."""
        plan = work.plan
        made = self.controller(plan)
        if plan.policy(self.name) is None:
            is_new = not plan.finished(self.name, Phase.TUNING)
            work.controllers.learn(self.name, made, is_new=is_new)
            work.children.train(plan.tuning(self.name))
            work.controllers.freeze(self.name, made, rollout_size=self.transitions)
        return work.controllers.frozen(self.name, made)

    def carried(self, taker: Carried, there: Plan, study: StudySpec) -> Entry:
        """Return this method under the name of its taker; the policy comes with it."""
        if there.policy(self.name) is None:
            raise invalid("of", f"{self.name!r} has no frozen policy in {taker.study}, yet")
        if there.spec.training.chunk_size != study.training.chunk_size:
            raise invalid(
                "of",
                f"{self.name!r} decides from {there.spec.training.chunk_size} losses a chunk, "
                f"children here have {study.training.chunk_size}; set the same chunk_size",
            )
        return replace(self, name=taker.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bayesian(Learning):
    """The best constant that Optuna's TPE proposed, by final validation scores (Figure 4)."""

    kind: Literal["bayesian"] = "bayesian"
    is_search = True

    def algorithm(self, study: StudySpec) -> Settings:
        """Return TPE's settings."""
        return BayesianSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(Learning):
    """A PPO policy that learns from the budget's children and is judged frozen: RNI or RD."""

    kind: Literal["ppo"] = "ppo"
    sites: Sites = Sites.SHARED
    """One value for all sites, or one per site."""
    reward: Reward = Reward.GAP
    """Reward it learns from; the paper's by default."""
    high: float | None = None
    """Upper bound of its actions; None for that of the range."""
    ppo: PPOSettings = field(default_factory=PPOSettings)

    def __post_init__(self) -> None:
        """Check the upper bound, the budget and the reward."""
        Budgeted.__post_init__(self)
        self.check_high(self.high)
        if REWARDS[self.reward].is_given:
            raise invalid("reward", "a child tells its scores; use gap, validation or improvement")

    def check(self, path: str, study: StudySpec) -> None:
        """Check that there are enough transitions for one update, if the length is in chunks."""
        chunks, needed = study.training.chunks, self.transitions
        children = self.tuned_children(study)
        if chunks is not None and children * chunks < needed:
            raise invalid(
                f"{path}ppo",
                f"{children} children of {chunks} chunks bring {children * chunks} transitions, "
                f"fewer than one update takes, {needed}; give more children or chunks, or a "
                "smaller rollout_size: in [methods.ppo] below this method, or as --rollout-size",
            )

    @property
    def transitions(self) -> int:
        """Transitions of one policy update."""
        return self.ppo.rollout_size

    @property
    def learned(self) -> Steered | None:
        """This method."""
        return self

    def training(self, study: StudySpec) -> TrainingSpec:
        """Return the training spec of its children; the seed is set for each."""
        return replace(Steered.training(self, study), sites=self.sites)

    def decided(self, study: StudySpec) -> tuple[Hyperparameter, ...]:
        """Return the hyperparameters of the policy, with the upper bound applied."""
        return self.below(self.high, Steered.decided(self, study))

    def algorithm(self, study: StudySpec) -> Settings:
        """Return PPO's settings."""
        return self.ppo

    def spent(self, tuned: Sequence[Result]) -> list[float]:
        """Return the running mean of test scores, since its policy explores while it learns."""
        return running_mean([result.finished.scores.test_score_best for result in tuned])
