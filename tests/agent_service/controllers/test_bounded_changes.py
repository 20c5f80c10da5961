"""Actions as bounded changes of what ran before, on a real server and store."""

import itertools
import math

import numpy as np
import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.learning import policy_file
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import DROPOUT, spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]
SIGMA = Hyperparameter(name="sigma", low=0.01, high=1.0, scale=Scale.LOG)


def bounded(max_change: float, *, log_std_init: float = 0.0) -> ControllerSpec:
    settings = PPOSettings(max_change=max_change, log_std_init=log_std_init)
    return spec(algorithm=settings, hyperparameters=(DROPOUT, SIGMA))


def train(
    client: AgentClient,
    *,
    mode: Mode | None = None,
    run_id: str = "r",
    chunks: int = 30,
    applied: dict[str, float] | None = None,
) -> list[pb.Transition]:
    """Report chunks, the third one under `applied`; return the run's log."""
    run = client.run("c", run_id=run_id, mode=mode)
    for chunk in range(1, chunks + 1):
        run.report_chunk(
            LOSSES,
            training_score=0.5,
            validation_score=0.5,
            applied=applied if chunk == 3 or mode is Mode.SHADOW else None,
        )
    return list(client.transitions(run_id=run_id))


def places(values: dict[str, float]) -> np.ndarray:
    share = math.log(values["sigma"] / 0.01) / math.log(100)
    return 2 * np.array([values["dropout"] / 0.9, share]) - 1


@pytest.mark.parametrize("max_change", [0.05, 0.5, 2.0])
def test_an_action_is_the_one_before_and_a_bounded_change(
    served: ServedAgent, client: AgentClient, max_change: float
) -> None:
    """The clipped output times `max_change` is added to the place before, and clipped there."""
    client.create_controller(bounded(max_change))

    log = train(client)

    for before, after in itertools.pairwise(log):
        change = max_change * np.clip(after.sample, -1, 1)
        expected = np.clip(places(dict(before.action.values)) + change, -1, 1)
        assert places(dict(after.action.values)) == pytest.approx(expected, abs=1e-9)
    assert any(abs(t.sample[0]) > 1 for t in log), "samples are kept unclipped"
    assert verify_store(served.url) == 31


def test_the_log_probability_is_that_of_the_output(client: AgentClient) -> None:
    """What is stored is what the policy drew, and its density, whatever it led to."""
    of = bounded(0.5)
    client.create_controller(of)
    policy = policy_file.from_bytes(client.export_policy("c"), of)

    for t in train(client)[1:]:
        # The first policy's deviation is 1.
        distance = np.array(t.sample) - policy.mean(np.array(t.state))
        density = -0.5 * distance @ distance - math.log(2 * math.pi)
        assert t.log_probability == pytest.approx(density, abs=1e-5)


@pytest.mark.parametrize(
    ("applied", "from_there"),
    [
        ({"dropout": 0.45, "sigma": 0.1}, [0, 0]),
        ({"dropout": 7.0, "sigma": 0.001}, [1, -1]),
        ({"dropout": -1.0, "sigma": 0.0}, [-1, -1]),
    ],
)
def test_a_change_starts_from_what_was_applied(
    served: ServedAgent, client: AgentClient, applied: dict[str, float], from_there: list[float]
) -> None:
    """Where the child ran under other values, these are changed next; clipped to the range."""
    client.create_controller(bounded(0.5))

    log = train(client, chunks=4, applied=applied)

    expected = np.clip(from_there + 0.5 * np.clip(log[3].sample, -1, 1), -1, 1)
    assert places(dict(log[3].action.values)) == pytest.approx(expected, abs=1e-9)
    assert verify_store(served.url) == 5


def test_a_shadow_run_records_changes_of_the_childs_own_values(
    served: ServedAgent, client: AgentClient
) -> None:
    """Each recorded action lies one mean change from what the child ran under."""
    client.create_controller(bounded(0.1))

    log = train(client, mode=Mode.SHADOW, chunks=5, applied={"dropout": 0.45, "sigma": 0.1})

    for t in log[1:]:
        expected = 0.1 * np.clip(t.sample, -1, 1)
        assert places(dict(t.action.values)) == pytest.approx(expected, abs=1e-9)
    assert verify_store(served.url) == 6


def test_a_first_action_is_a_place_in_every_mode(client: AgentClient) -> None:
    """Uniform over the whole range while learning; frozen, the mean at S_0 is the place."""
    of = bounded(0.01)
    client.create_controller(of)
    firsts = [places(dict(client.run("c", run_id=f"r{i}").action.values)) for i in range(40)]
    frozen = train(client, mode=Mode.FROZEN, run_id="frozen", chunks=1)[0]
    mean = policy_file.from_bytes(client.export_policy("c"), of).mean(np.zeros(4))

    assert np.ptp(firsts, axis=0).min() > 1
    assert places(dict(frozen.action.values)) == pytest.approx(mean, abs=1e-9)
