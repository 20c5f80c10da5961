"""The learner on a real store: what it makes of full rollouts, and of what cannot be used."""

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from agent_service.client import AgentClient
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Controller, Mode
from agent_service.domain.specs import PPOSettings, RandomSettings
from agent_service.learning.learner import learn_once, with_full_rollouts
from agent_service.store.session import SqlSession
from agent_service.store.sql import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent
from tests.postgresql import PostgresServer

LOSSES = [2.0, 1.5, 1.25, 1.0]
SMALL = PPOSettings(rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,))


def train(client: AgentClient, chunks: int, *, reward: float = 0.5, controller: str = "c") -> None:
    with client.run(controller) as run:
        for chunk in range(chunks):
            run.report_reward([loss / (chunk + 1) for loss in LOSSES], reward * (chunk % 2))


def uses(client: AgentClient, controller: str = "c") -> list[int]:
    return [t.use for t in client.transitions(controller=controller)]


def test_a_rollout_waits_until_it_is_full(served: ServedAgent, client: AgentClient) -> None:
    """Seven of eight transitions make no version; the eighth, of another run, makes one."""
    client.create_controller(spec(algorithm=SMALL, reward=Reward.GIVEN))
    train(client, 7)
    assert learn_once(served.store) == 0
    assert client.get_controller("c").policy_version == 1

    train(client, 1)
    assert learn_once(served.store) == 1
    assert client.get_controller("c").policy_version == 2
    assert uses(client) == [pb.USE_LEARNED] * 8
    assert learn_once(served.store) == 0


def test_looking_for_rollouts_costs_the_same_for_any_number_of_controllers(
    served: ServedAgent, client: AgentClient
) -> None:
    """One statement says of all whose rollouts are of one size; who is full is found among them."""
    for number in range(20):
        client.create_controller(spec(f"c{number}", algorithm=SMALL, reward=Reward.GIVEN))
    larger = replace(SMALL, rollout_size=9)
    client.create_controller(spec("larger", algorithm=larger, reward=Reward.GIVEN))
    client.create_controller(spec("random", RandomSettings(), reward=Reward.GIVEN))
    for name in ("c3", "larger", "random"):
        train(client, 8, controller=name)
    train(client, 8, controller="c7")
    client.set_mode("c7", Mode.FROZEN)
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        found = served.store.read(with_full_rollouts)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)

    assert [controller.spec.name for controller in found] == ["c3"]
    assert len([s for s in statements if s.startswith("SELECT")]) == 3


def test_a_rollout_that_cannot_be_used_is_skipped_once(
    served: ServedAgent, client: AgentClient
) -> None:
    """Rewards beyond float32 fail the update: they are recorded, the next rollout is learned."""
    client.create_controller(spec(algorithm=SMALL, reward=Reward.GIVEN))
    train(client, 8, reward=1e300)
    learn_once(served.store)
    assert client.get_controller("c").policy_version == 1
    assert uses(client) == [pb.USE_RECORDED] * 8

    train(client, 8)
    learn_once(served.store)
    assert client.get_controller("c").policy_version == 2
    assert uses(client) == [pb.USE_RECORDED] * 8 + [pb.USE_LEARNED] * 8


def test_a_failing_controller_holds_up_no_other(served: ServedAgent, client: AgentClient) -> None:
    """Both rollouts are full; the one that can be used is."""
    for name in ("bad", "good"):
        client.create_controller(spec(name, SMALL, reward=Reward.GIVEN))
    train(client, 8, reward=1e300, controller="bad")
    train(client, 8, controller="good")

    learn_once(served.store)

    assert client.get_controller("bad").policy_version == 1
    assert client.get_controller("good").policy_version == 2


def test_a_frozen_controller_keeps_what_is_ready(served: ServedAgent, client: AgentClient) -> None:
    """Frozen, nothing is consumed; set to learn again, it is."""
    client.create_controller(spec(algorithm=SMALL, reward=Reward.GIVEN))
    train(client, 8)
    client.set_mode("c", Mode.FROZEN)
    assert learn_once(served.store) == 0
    assert uses(client) == [pb.USE_READY] * 8

    client.set_mode("c", Mode.LEARNING)
    assert learn_once(served.store) == 1


def test_a_learner_that_is_not_alone_reads_no_rollout(
    postgresql: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another one learns for a controller; when that ends, it learns itself."""
    with (
        ServedAgent(postgresql.new_database()) as served,
        AgentClient(served.address) as client,
        SqlStore(served.url) as other,
    ):
        client.create_controller(spec(algorithm=SMALL, reward=Reward.GIVEN))
        train(client, 8)
        controller = served.store.read(lambda session: session.find_controller("c"))
        assert controller is not None
        reads: list[int] = []
        ready_transitions = SqlSession.ready_transitions

        def counted(session: SqlSession, of: Controller, *, limit: int) -> Any:
            reads.append(limit)
            return ready_transitions(session, of, limit=limit)

        monkeypatch.setattr(SqlSession, "ready_transitions", counted)
        with other.learning_for(controller) as is_alone:
            assert is_alone
            assert learn_once(served.store) == 0
            assert reads == []

        assert learn_once(served.store) == 1
        assert reads == [8]


def test_the_next_actions_are_those_of_the_new_version(
    served: ServedAgent, client: AgentClient
) -> None:
    """A learning run takes up a version while it runs; a frozen one keeps to its own."""
    client.create_controller(spec(algorithm=SMALL, reward=Reward.GIVEN))
    learning, frozen = client.run("c"), client.run("c", mode=Mode.FROZEN)
    train(client, 8)
    learn_once(served.store)

    for run in (learning, frozen):
        run.report_reward(LOSSES, 0.0)

    assert learning.action.policy_version == 2
    assert frozen.action.policy_version == 1
