"""The learner on a real store: what it makes of full rollouts, and of what cannot be used."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import sqlalchemy as sa

from agent_service.client import AgentClient, PPOSettings, RandomSettings, Reward
from agent_service.domain.errors import Unavailable
from agent_service.domain.runs import Controller, Mode
from agent_service.domain.specs import ControllerSpec, Settings
from agent_service.learning import learner as learner_module
from agent_service.learning import sb3
from agent_service.learning.learner import Learner
from agent_service.store.rows import rows
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import LOSSES
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent
from tests.postgresql import PostgresServer

SMALL = PPOSettings(rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,))


def create(client: AgentClient, *names: str, algorithm: Settings = SMALL) -> None:
    for name in names or ("c",):
        client.create_controller(spec(name, algorithm, reward=Reward.GIVEN))


def train(
    client: AgentClient, chunks: int = 8, *, reward: float = 0.5, controller: str = "c"
) -> None:
    with client.run(controller) as run:
        for chunk in range(chunks):
            run.report_reward([loss / (chunk + 1) for loss in LOSSES], reward * (chunk % 2))


def uses(client: AgentClient, controller: str = "c") -> list[int]:
    return [t.use for t in client.transitions(controller=controller)]


def test_a_rollout_waits_until_it_is_full(served: ServedAgent, client: AgentClient) -> None:
    """Seven of eight transitions make no version; the eighth, of another run, makes one."""
    create(client)
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
    """One statement says of all whose rollouts are of one size; of the others no spec is read."""
    create(client, *(f"c{number}" for number in range(20)))
    create(client, "larger", algorithm=replace(SMALL, rollout_size=9))
    create(client, "random", algorithm=RandomSettings())
    for name in ("c3", "larger", "random"):
        train(client, controller=name)
    train(client, controller="c7")
    client.set_mode("c7", Mode.FROZEN)
    learner = Learner()
    served.store.read(learner.with_full_rollouts)
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        found = served.store.read(learner.with_full_rollouts)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)

    assert [controller.spec.name for controller in found] == ["c3"]
    asked = [s for s in statements if s.startswith(("SELECT", "WITH"))]
    assert len(asked) == 4, "who is new, one for each size, and those that are full"
    assert sum("controllers.spec" in statement for statement in asked) == 1


def test_a_look_reads_no_controller_that_does_not_learn(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a frozen nor a deleted one, though their rollouts are full for ever."""
    create(client, "frozen", "deleted")
    for name in ("frozen", "deleted"):
        train(client, controller=name)
    client.set_mode("frozen", Mode.FROZEN)
    client.delete_controller("deleted")
    learner = Learner()
    assert not served.store.read(learner._has_learning), "which reads each that is new"
    read: list[str] = []
    actual = rows.controller_from_row

    def noted(row: rows.Row) -> Controller:
        read.append(row["controller_name"])
        return actual(row)

    monkeypatch.setattr(rows, "controller_from_row", noted)

    assert not served.store.read(learner._has_learning)
    assert not served.store.read(learner.with_full_rollouts)
    assert read == []


@pytest.mark.parametrize("fault", ["reward", "time"])
def test_a_rollout_that_cannot_be_used_is_skipped_once(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Rewards beyond float32, or too long an update: recorded only; the next one is learned."""
    create(client)
    train(client, reward=1e300 if fault == "reward" else 0.5)
    with monkeypatch.context() as patch:
        if fault == "time":
            patch.setattr(learner_module, "UPDATE_SECONDS", 0.0)
        learn_once(served.store)
    assert client.get_controller("c").policy_version == 1
    assert uses(client) == [pb.USE_RECORDED] * 8

    train(client)
    learn_once(served.store)
    assert client.get_controller("c").policy_version == 2
    assert uses(client) == [pb.USE_RECORDED] * 8 + [pb.USE_LEARNED] * 8


def test_a_frozen_controller_learns_later(served: ServedAgent, client: AgentClient) -> None:
    """Frozen, nothing is consumed; set to learn again, it is."""
    create(client)
    train(client)
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
        create(client)
        train(client)
        controller = served.store.read(lambda session: session.find_controller("c"))
        assert controller is not None
        reads: list[int] = []
        ready_transitions = Session.ready_transitions

        def counted(session: Session, of: Controller, *, limit: int) -> Any:
            reads.append(limit)
            return ready_transitions(session, of, limit=limit)

        monkeypatch.setattr(Session, "ready_transitions", counted)
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
    create(client)
    learning, frozen = client.run("c"), client.run("c", mode=Mode.FROZEN)
    train(client)
    learn_once(served.store)

    for run in (learning, frozen):
        run.report_reward(LOSSES, 0.0)

    assert learning.action.policy_version == 2
    assert frozen.action.policy_version == 1


def with_moments(policy: bytes, value: float) -> bytes:
    """Return a policy file whose optimizer's first moments are all `value`."""
    arrays = safetensors.numpy.load(policy)
    manifest = json.loads(policy[8 : 8 + int.from_bytes(policy[:8], "little")])["__metadata__"]
    for name in arrays:
        if name.endswith(".exp_avg"):
            arrays[name] = np.full_like(arrays[name], value)
    return safetensors.numpy.save(arrays, manifest)


def test_a_file_whose_optimizer_fails_every_update_is_learned_from_anew(
    served: ServedAgent, client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Adam's state starts again at zero, the weights go on, and one line says so."""
    create(client)
    client.import_policy("c", with_moments(client.export_policy("c"), 3e38))
    train(client)

    assert learn_once(served.store) == 1

    assert client.get_controller("c").policy_version == 3
    assert uses(client) == [pb.USE_LEARNED] * 8
    assert [r.levelname for r in caplog.records if "started anew" in r.message] == ["WARNING"]
    train(client)
    learn_once(served.store)
    assert client.get_controller("c").policy_version == 4
    assert len([r for r in caplog.records if "started anew" in r.message]) == 1


def test_whatever_an_update_raises_ends_no_learner(
    served: ServedAgent,
    client: AgentClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rollout is recorded, once, in one line; the version stays; others are learned for."""
    create(client, "bad", "good")
    for name in ("bad", "good"):
        train(client, controller=name)

    def update(snapshot: Any, of: ControllerSpec, *rest: Any, **options: Any) -> Any:
        if of.name == "bad":
            raise MemoryError("no room")
        return actual(snapshot, of, *rest, **options)

    actual = sb3.update
    monkeypatch.setattr(sb3, "update", update)
    learner = Learner()
    while learner.take_turn(served.store):
        pass

    assert client.get_controller("bad").policy_version == 1
    assert client.get_controller("good").policy_version == 2
    assert uses(client, "bad") == [pb.USE_RECORDED] * 8
    (line,) = [r.message for r in caplog.records if r.levelname == "ERROR"]
    assert line.endswith("MemoryError: no room")


def test_controllers_learn_in_turn(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose updates take long waits for all that take less, however many are due."""
    create(client, "a-slow", "b-slow", "quick")
    for name in ("a-slow", "b-slow", "quick"):
        train(client, 24, controller=name)
    clock = 0.0
    taken: list[str] = []

    def learn_for(store: SqlStore, controller: Controller) -> bool:
        nonlocal clock
        name = controller.spec.name
        taken.append(name)
        clock += 1.0 if name == "quick" else 20.0
        return actual(store, controller)

    actual = learner_module._learn_for
    monkeypatch.setattr(learner_module, "_learn_for", learn_for)
    times = SimpleNamespace(monotonic=lambda: clock, perf_counter=lambda: 0.0, time=lambda: 1.0)
    monkeypatch.setattr(learner_module, "time", times)
    learner = Learner()
    while learner.take_turn(served.store):
        pass

    assert taken[:5] == ["a-slow", "b-slow", "quick", "quick", "quick"]
    assert sorted(taken[5:]) == ["a-slow", "a-slow", "b-slow", "b-slow"]
    train(client, controller="quick")
    train(client, 16, controller="a-slow")
    assert learner.take_turn(served.store)
    assert taken[9] == "quick", "who comes back is before those whose updates took longer"


def test_what_cannot_be_read_of_one_controller_holds_up_no_other(tmp_path: Path) -> None:
    """The error is raised once; then the controller rests, and the others are learned for."""
    path = tmp_path / "agent.db"
    with ServedAgent(path) as served, AgentClient(served.address) as client:
        create(client, "a-damaged", "good")
        for name in ("a-damaged", "good"):
            train(client, controller=name)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE policies SET data = x'00' WHERE controller_id = 1")
        learner = Learner()

        with pytest.raises(Unavailable, match="table policies"):
            learner.take_turn(served.store)
        assert learner.take_turn(served.store)

        assert client.get_controller("good").policy_version == 2
        assert not learner.take_turn(served.store)
