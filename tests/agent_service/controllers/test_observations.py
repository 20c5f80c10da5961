"""A policy's observations beside the losses, on a real server and store."""

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent_service.analysis.verification import VerificationError
from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import InvalidArgument
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode, Outcome
from agent_service.domain.specs import ControllerSpec
from agent_service.learning.policy_file import from_bytes
from agent_service.learning.rollout import Segment
from agent_service.learning.sb3 import update
from agent_service.learning.snapshot import initial_snapshot
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, spec
from tests.given import ServedAgent

SIGMA = Hyperparameter(name="sigma", low=0.01, high=1.0, scale=Scale.LOG)
EVERYTHING = PPOSettings(
    rollout_size=8,
    batch_size=8,
    n_epochs=1,
    net_arch=(8,),
    center_rewards=False,
    observe_action=True,
    observe_progress=True,
    observe_scores=True,
)
TRAINING = (0.25, 0.5, 0.75, 0.5)
VALIDATION = (0.125, 0.5, 0.375, 0.75)


def everything() -> ControllerSpec:
    return spec("all", EVERYTHING, hyperparameters=(DROPOUT, SIGMA))


def losses(chunk: int) -> list[float]:
    return [2.0 / chunk, 1.5 / chunk, 1.25 / chunk, 1.0 / chunk]


def train(
    client: AgentClient,
    *,
    run_id: str,
    planned: int | None = 2,
    outcome: Outcome = Outcome.TERMINATED,
) -> list[pb.Transition]:
    """Report four chunks, the second under other values than were decided; return its log."""
    run = client.run("all", run_id=run_id, planned_chunks=planned)
    for chunk in range(1, 5):
        run.report_chunk(
            losses(chunk),
            training_score=TRAINING[chunk - 1],
            validation_score=VALIDATION[chunk - 1],
            applied={"dropout": 0.225, "sigma": 5.0} if chunk == 2 else None,
        )
    run.finish(outcome)
    return list(client.transitions(run_id=run_id))


def places(transition: pb.Transition) -> list[float]:
    values = transition.action.values
    share = math.log(values["sigma"] / 0.01) / math.log(1.0 / 0.01)
    return [2 * values["dropout"] / 0.9 - 1, 2 * share - 1]


def test_the_context_is_action_progress_and_scores_in_order(
    served: ServedAgent, client: AgentClient
) -> None:
    """Last values (applied ones too, clipped), share of the plan (at most 1), scores, changes."""
    client.create_controller(everything())

    first, second, third, fourth = train(client, run_id="r")

    assert list(first.context) == [0] * 7
    assert list(second.context) == pytest.approx([*places(first), 0.5, 0.25, 0.125, 0, 0])
    assert list(third.context) == pytest.approx([-0.5, 1, 1, 0.5, 0.5, 0.25, 0.375])
    assert list(fourth.context) == pytest.approx([*places(third), 1, 0.75, 0.375, 0.25, -0.125])
    assert client.get_run("r").planned_chunks == 2
    assert verify_store(served.url) == 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PPOSettings(), []),
        (PPOSettings(observe_progress=True), [0.5]),
        (PPOSettings(observe_scores=True), [3.0, 4.0]),
        (PPOSettings(observe_progress=True, observe_scores=True), [0.5, 3.0, 4.0]),
    ],
)
def test_only_what_is_asked_for_is_seen(
    served: ServedAgent, client: AgentClient, settings: PPOSettings, expected: list[float]
) -> None:
    """Each part alone; a ready reward stands for the scores, and its change is finite."""
    client.create_controller(spec(algorithm=settings, reward=Reward.GIVEN))
    run = client.run("c", planned_chunks=4)
    for chunk, reward in enumerate((-1.0, 3.0, 0.0), start=1):
        run.report_reward(losses(chunk), reward)

    assert list(list(client.transitions())[-1].context) == expected
    assert verify_store(served.url) == 4
    distant = client.run("c", planned_chunks=4)
    for reward in (-1.7e308, 1.7e308, 0.0):
        distant.report_reward(losses(1), reward)
    assert np.isfinite(list(client.transitions())[-1].context).all()
    assert 0 <= distant.hyperparameters["dropout"] <= 0.9


def test_the_policy_decides_by_what_it_sees(client: AgentClient) -> None:
    """Two frozen runs with the same losses part where only their plans differ."""
    client.create_controller(everything(), Mode.FROZEN)

    short, long = (train(client, run_id=f"r{n}", planned=n) for n in (4, 400))

    assert short[0].action.values == long[0].action.values
    assert short[1].action.values != long[1].action.values


def test_a_run_without_a_plan_is_refused_where_progress_is_observed(client: AgentClient) -> None:
    """INVALID_ARGUMENT names the field, and no run is there; others need no plan."""
    client.create_controller(everything())
    client.create_controller(spec())

    with pytest.raises(InvalidArgument) as raised:
        client.run("all", run_id="r")

    assert [v.field for v in raised.value.violations] == ["planned_chunks"]
    assert list(client.list_runs()) == []
    client.run("c", run_id="r")
    assert client.get_run("r").planned_chunks == 0


def segment(log: list[pb.Transition], end: list[float], *, terminated: bool) -> Segment:
    """Return what the learner should have taken from the transitions of the log."""
    return Segment(
        observations=np.array([[*t.state, *t.context] for t in log]),
        samples=np.array([t.sample for t in log]),
        log_probabilities=np.array([t.log_probability for t in log]),
        rewards=np.array([t.reward for t in log]),
        next_observation=np.array(end),
        terminated=terminated,
    )


def test_the_learner_sees_what_the_policy_saw(served: ServedAgent, client: AgentClient) -> None:
    """Version 2 is the update on observations that are put together from the log by hand.

    The end of a truncated run bootstraps from what was seen there, context included.
    """
    of = everything()
    client.create_controller(of)
    logs = [train(client, run_id=f"r{i}", planned=4, outcome=Outcome.TRUNCATED) for i in range(3)]
    assert learn_once(served.store) == 1

    segments = []
    for one, two, three, four in logs:
        # The second transition ran under other values: it is not learned from.
        segments.append(segment([one], [*two.state, *two.context], terminated=False))
        end = [*losses(4), *places(four), 1.0, 0.5, 0.75, -0.25, 0.375]
        segments.append(segment([three, four], end, terminated=False))
    # A rollout of eight ends inside the third run.
    segments[-1] = segment(logs[2][2:3], [*logs[2][3].state, *logs[2][3].context], terminated=False)
    learned = from_bytes(client.export_policy("all", 2), of)
    seeds = np.random.default_rng(0)
    expected = update(initial_snapshot(of), of, segments, seed=int(seeds.integers(2**63)))

    # One minibatch holds the whole rollout, so the order of shuffling leaves no trace.
    for name, array in expected.snapshot.arrays.items():
        np.testing.assert_allclose(learned.arrays[name], array, rtol=0, atol=1e-6, err_msg=name)
    first = learned.arrays["mlp_extractor.policy_net.0.weight"]
    before = initial_snapshot(of).arrays["mlp_extractor.policy_net.0.weight"]
    assert (first != before).any(axis=0).all(), "every input is learned from"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of one run."""
    path = tmp_path_factory.mktemp("log") / "agent.db"
    with ServedAgent(path) as served, AgentClient(served.address) as client:
        client.create_controller(everything())
        train(client, run_id="r")
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET context = zeroblob(56) WHERE position = 3",
        "UPDATE decisions SET context = NULL WHERE position = 3",
        "UPDATE runs SET planned_chunks = 30",
        "UPDATE runs SET planned_chunks = NULL",
        """UPDATE decisions SET applied = '{"dropout": 0.5, "sigma": 0.5}' WHERE position = 3""",
        """UPDATE decisions SET applied = '{"x": 0.5}' WHERE position = 3""",
    ],
)
def test_a_changed_context_is_found(log: Path, tmp_path: Path, statement: str) -> None:
    """The policy's observations are derived again from run and log."""
    path = tmp_path / "agent.db"
    shutil.copy(log, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount >= 1
        for table in ("runs", "decisions"):
            connection.execute(f"UPDATE {table} SET checksum = NULL")

    with pytest.raises(VerificationError, match=r"position [23]: run r.*(context|applied)"):
        verify_store(f"sqlite:///{path}")


def test_a_diverged_run_ends_with_an_empty_observation(
    served: ServedAgent, client: AgentClient
) -> None:
    """The reward of divergence completes a transition that learning takes and `verify` passes."""
    client.create_controller(everything())
    for i in range(2):
        train(client, run_id=f"r{i}", outcome=Outcome.DIVERGED)

    assert learn_once(served.store) == 1
    assert client.get_controller("all").policy_version == 2
    assert verify_store(served.url) == 12
