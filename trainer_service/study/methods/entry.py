"""What every method of a study is: a name, the children that it trains, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from agent_service.domain.checks import check_name
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import NAME
from agent_service.domain.rewards import Reward
from trainer_service.run import RunSpec
from trainer_service.study.methods.plan import LONGEST_NAME, Phase, Plan
from trainer_service.study.plain import shortened

if TYPE_CHECKING:
    from trainer_service.study.methods.carried import Carried
    from trainer_service.study.methods.choosing import Steered
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec

Studies = Callable[[str], Plan]
"""Returns the study of a folder; raises AgentError where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method of a study; what a kind does not say itself is that of one that tunes nothing."""

    name: str
    """Form `[a-z0-9][a-z0-9-]{0,39}`; unique in the study."""
    title: str = ""
    """For tables and pictures; empty takes the name."""
    kind: str
    """The word of study files; each kind has its own."""
    needs_agent: ClassVar[bool] = False
    """Whether the agent service decides anything."""
    is_search: ClassVar[bool] = False
    """Whether it searches for a constant."""

    def __post_init__(self) -> None:
        """Check the name; raises InvalidArgument, as all kinds do."""
        check_name(self.name, NAME, longest=LONGEST_NAME)

    # Plan: which children it trains

    def check(self, path: str, study: StudySpec) -> None:
        """Check it against its study.

        Args:
            path: how fields are named that are wrong: this, then the field's name.
            study: that it is a method of.

        Raises:
            InvalidArgument: something does not fit.
        """

    def tuned_children(self, study: StudySpec) -> int:
        """Return how many children it trains that are not judged."""
        return 0

    def tuning(self, plan: Plan) -> list[RunSpec]:
        """Return what the children are trained as that are not judged, in order."""
        return []

    def judged(self, plan: Plan, seed: int) -> RunSpec | None:
        """Return what the judged child of a seed is trained as; None while that is not known."""
        raise NotImplementedError

    def planned(self, plan: Plan, result: Result) -> RunSpec | None:
        """Return what a judged result should have been trained as; None where nobody can say."""
        return self.judged(plan, result.key.index)

    # Tune, then judge

    def asks_agent(self, study: StudySpec, studies: Studies) -> bool:
        """Return whether the agent service is needed to run it; asked before anything is written.

        Args:
            study: that it is a method of.
            studies: all others.
        """
        return self.needs_agent

    def tune(self, work: Work) -> str:
        """Come to where its children can be judged.

        Returns:
            SHA-256 of the frozen policy's file that decides; empty without one.
        """
        work.children.train(work.plan.tuning(self.name))
        return ""

    def judge(self, work: Work) -> list[Result]:
        """Tune, then train the judged children of this part; return their results."""
        policy = self.tune(work)
        plan, children = work.plan, []
        for seed in work.seeds:
            run = self.judged(plan, seed)
            assert run is not None, "it is tuned"
            children.append(plan.child(self.name, Phase.JUDGED, seed, run))
        return work.children.train(children, policy=policy)

    def carried(self, taker: Carried, there: Plan, study: StudySpec) -> Entry:
        """Return what it came to in another study, as a method of this one.

        Args:
            taker: the method of this study that takes it.
            there: the other study.
            study: this one.

        Raises:
            InvalidArgument: field `of`: there is nothing, or it does not fit.
        """
        raise invalid("of", f"{self.name!r} is no search and no learned method of {taker.study}")

    # Describe: what a report says of it

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return shortened(self.title) or self.name

    @property
    def source(self) -> str:
        """The method of this study that it is made of; empty where it is made of none."""
        return ""

    @property
    def learned(self) -> Steered | None:
        """Itself if it learns a policy, which others can replay."""
        return None

    @property
    def origin(self) -> str:
        """The other study that it is from, and the method there; empty where it is of this one."""
        return ""

    @property
    def reward(self) -> Reward:
        """What its chunks earn: the paper's reward where nothing is learned."""
        return Reward.GAP

    def compared_with(self, study: StudySpec) -> list[str]:
        """Return the methods that it stands beside in a report, beside the study's references."""
        return [self.source] if self.source else []

    def children_before(self, study: StudySpec, tuned: int) -> str:
        """Say which children were trained before it was judged; `tuned` is how many of its own."""
        return f"those of {study.entry(self.source).label}" if self.source else str(tuned)

    def spent(self, tuned: Sequence[Result]) -> list[float]:
        """Return what it has to show after each child of its budget, as a test score.

        That of the child with the best validation score so far.

        Args:
            tuned: those children, in order.
        """
        tests = [result.finished.scores.test_score_best for result in tuned]
        valid = [result.finished.scores.validation_score_best for result in tuned]
        return [tests[int(np.argmax(valid[: i + 1]))] for i in range(len(tests))]
