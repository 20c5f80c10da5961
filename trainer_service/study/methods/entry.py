"""Base class of a study's methods: checks, children, tuning, judging, and the report's view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from agent_service.domain.checks import check_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import NAME
from agent_service.domain.rewards import Reward
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.plan import LONGEST_NAME, Phase, Plan
from trainer_service.study.plain import shortened

if TYPE_CHECKING:
    from trainer_service.study.methods.carried import Carried
    from trainer_service.study.methods.steered import Steered
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec

Studies = Callable[[str], Plan]
"""Reads the study in a folder; raises AgentError if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method of a study. The defaults are those of a method without tuning."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,39}`; unique in the study."""
    title: str = ""
    """For tables and pictures; empty takes the name."""
    kind: str
    """Name of the kind in study files; each subclass fixes its own."""
    needs_agent: ClassVar[bool] = False
    """Whether it uses the agent service."""
    is_search: ClassVar[bool] = False
    """Whether it searches for a constant."""

    def __post_init__(self) -> None:
        """Check the name; raises InvalidArgument, as the checks of all kinds do."""
        check_name(self.name, NAME, longest=LONGEST_NAME)

    # Plan

    def check(self, path: str, study: StudySpec) -> None:
        """Check it against its study.

        Args:
            path: prefix of the names of its fields in errors.
            study: it belongs to.

        Raises:
            InvalidArgument: a field does not fit the study.
        """

    def tuned_children(self, study: StudySpec) -> int:
        """Return how many children it trains before judging."""
        return 0

    def tuning(self, plan: Plan) -> list[RunSpec]:
        """Return the runs of the children that it trains before judging, in order."""
        return []

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return the run of the judged child of a seed; None until tuning is finished."""
        raise NotImplementedError

    def planned(self, plan: Plan, result: Result) -> RunSpec | None:
        """Return the run that a judged result should have had; None if it cannot be derived."""
        return self.judged(plan, result.key.index)

    # Tune and judge

    def asks_agent(self, study: StudySpec, studies: Studies) -> bool:
        """Return whether running it needs the agent service. Called before anything is written."""
        return self.needs_agent

    def tune(self, work: Work) -> str:
        """Train and prepare all that judging needs.

        Returns:
            SHA-256 of the frozen policy's file; empty without a policy.
        """
        work.children.train(work.plan.tuning(self.name))
        return ""

    def judge(self, work: Work) -> list[Result]:
        """Tune, train the judged children of this part, and return their results."""
        policy = self.tune(work)
        plan, children = work.plan, []
        for seed in work.seeds:
            run = self.judged(plan, seed)
            assert run is not None, "it is tuned"
            children.append(plan.child(self.name, Phase.JUDGED, seed, run))
        return work.children.train(children, policy=policy)

    def carried(self, taker: Carried, there: Plan, study: StudySpec) -> Entry:
        """Return the outcome in the study `there` as the method `taker` of this study.

        Raises:
            InvalidArgument: field `of`: it has no outcome, or one that does not fit here.
        """
        raise invalid("of", f"{self.name!r} is no search and no learned method of {taker.study}")

    # Describe, for the report

    @property
    def label(self) -> str:
        """Name in tables and pictures."""
        return shortened(self.title) or self.name

    @property
    def source(self) -> str:
        """Name of the method of this study that it derives from; empty for none."""
        return ""

    @property
    def learned(self) -> Steered | None:
        """This method, if it has a learned policy that others can derive from; else None."""
        return None

    @property
    def origin(self) -> str:
        """The other study it is carried over from, and its method there; empty for none."""
        return ""

    @property
    def is_constant(self) -> bool:
        """Whether its values are fixed beforehand, the same on any problem."""
        return False

    @property
    def reward(self) -> Reward:
        """Reward of its chunks; the paper's if it learns nothing."""
        return Reward.GAP

    def compared_with(self, study: StudySpec) -> list[str]:
        """Return the methods that reports compare it with, besides the study's references."""
        return [self.source] if self.source else []

    def children_before(self, study: StudySpec, tuned: int) -> str:
        """Describe the children trained before judging; `tuned` is the number of its own."""
        return f"those of {study.entry(self.source).label}" if self.source else str(tuned)

    def spent(self, tuned: Sequence[Result]) -> list[float]:
        """Return the test score reached after each child of its budget.

        By default that of the child with the best validation score so far.
        """
        tests = [result.finished.scores.test_score_best for result in tuned]
        valid = [result.finished.scores.validation_score_best for result in tuned]
        return [tests[int(np.argmax(valid[: i + 1]))] for i in range(len(tests))]
