"""Actions as bounded changes of what ran before, on a real server and store."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Mode, PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from agent_service.domain.specs import ControllerSpec
from agent_service.learning import policy_file
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import report
from tests.agent_service.specs import DROPOUT, spec
from tests.given import ServedAgent

SIGMA = Hyperparameter(name="sigma", low=0.01, high=1.0, scale=Scale.LOG)


def bounded(max_change: float) -> ControllerSpec:
    settings = PPOSettings(max_change=max_change, log_std_init=0.0)
    return spec(algorithm=settings, hyperparameters=(DROPOUT, SIGMA))


def places(values: Mapping[str, float]) -> np.ndarray:
    """Return where values lie in the policy's [-1, 1]."""
    share = math.log(values["sigma"] / 0.01) / math.log(100)
    return 2 * np.array([values["dropout"] / 0.9, share]) - 1


def follows(before: np.ndarray, t: pb.Transition, max_change: float) -> bool:
    """Whether an action is the place before and its clipped, scaled output, clipped again."""
    expected = np.clip(before + max_change * np.clip(t.sample, -1, 1), -1, 1)
    return bool(np.allclose(places(t.action.values), expected, rtol=0, atol=1e-9))


@pytest.mark.parametrize("max_change", [0.05, 0.5, 2.0])
def test_an_action_is_the_one_before_and_a_bounded_change(
    served: ServedAgent, client: AgentClient, max_change: float
) -> None:
    """The log has the unclipped output, with its own density under the policy."""
    of = bounded(max_change)
    client.create_controller(of)
    report(client.run("c", run_id="r"), 30)
    log = list(client.transitions())

    for before, after in itertools.pairwise(log):
        assert follows(places(before.action.values), after, max_change)
    assert any(abs(t.sample[0]) > 1 for t in log), "samples are kept unclipped"
    policy = policy_file.from_bytes(client.export_policy("c"), of)
    for t in log[1:]:
        # The first policy's deviation is 1.
        distance = np.array(t.sample) - policy.mean(np.array(t.state))
        density = -0.5 * distance @ distance - math.log(2 * math.pi)
        assert t.log_probability == pytest.approx(density, abs=1e-5)
    assert verify_store(served.url) == 31


@pytest.mark.parametrize("mode", [Mode.LEARNING, Mode.SHADOW])
@pytest.mark.parametrize(
    ("applied", "from_there"),
    [
        ({"dropout": 0.45, "sigma": 0.1}, [0, 0]),
        ({"dropout": 7.0, "sigma": 0.001}, [1, -1]),
        ({"dropout": -1.0, "sigma": 0.0}, [-1, -1]),
    ],
)
def test_a_change_starts_from_the_applied_values(
    served: ServedAgent,
    client: AgentClient,
    mode: Mode,
    applied: dict[str, float],
    from_there: list[float],
) -> None:
    """If the child ran under other values, these are changed next; clipped to the range."""
    client.create_controller(bounded(0.5))
    report(client.run("c", run_id="r", mode=mode), 4, applied=applied)

    for t in list(client.transitions())[1:]:
        assert follows(np.array(from_there), t, 0.5)
    assert verify_store(served.url) == 5


def test_a_first_action_is_a_place_in_every_mode(client: AgentClient) -> None:
    """Uniform over the whole range while learning; frozen, the mean at S_0 is the place."""
    of = bounded(0.01)
    client.create_controller(of)
    firsts = [places(client.run("c", run_id=f"r{i}").action.values) for i in range(40)]
    frozen = client.run("c", mode=Mode.FROZEN).action
    mean = policy_file.from_bytes(client.export_policy("c"), of).mean(np.zeros(4))

    assert np.ptp(firsts, axis=0).min() > 1
    assert places(frozen.values) == pytest.approx(mean, abs=1e-9)
