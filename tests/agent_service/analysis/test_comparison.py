"""How two policy versions are compared, whatever decides by them."""

import numpy as np

from agent_service.analysis.comparison import Difference, PastRun, differences
from agent_service.domain.runs import Choice, Mode
from agent_service.domain.specs import ControllerSpec, Settings
from agent_service.domain.store import Situation
from agent_service.domain.trials import TrialHistory
from tests.agent_service.specs import spec


class Climber(Settings):
    """Goes up from its own last action, by the score of the version's only trial."""

    kind = "climber"

    def decide(self, spec: ControllerSpec, situation: Situation) -> Choice:
        assert isinstance(situation.policy, TrialHistory)
        assert situation.mode is Mode.FROZEN
        before = -1.0 if situation.previous is None else situation.previous.sample[0]
        step = float(situation.policy.scores[0])
        return Choice((before + step,), log_probability=0.0, explored=False)


def test_each_version_follows_its_own_actions() -> None:
    """In each run from its start: what it decides next builds on what it decided, not the other."""
    slow, fast = (TrialHistory(np.zeros((1, 1)), np.array([step])) for step in (0.25, 0.5))
    runs = [
        PastRun(run_id="a", states=[np.zeros(4)] * 2, contexts=[np.zeros(0)] * 2),
        PastRun(run_id="b", states=[np.zeros(4)] * 4, contexts=[np.zeros(0)] * 4),
    ]

    found = differences(spec(algorithm=Climber()), (slow, fast), runs)

    # Steps of 0.25 and 0.5 in [-1, 1] are such of 0.1125 and 0.225 in the drop rate's [0, 0.9].
    assert found == [
        Difference(
            hyperparameter="dropout",
            mean=0.1125 * (1 + 2 + 1 + 2 + 3 + 4) / 6,
            largest=0.45,
            run_id="b",
            chunk=4,
            one=0.45,
            other=0.9,
        )
    ]
