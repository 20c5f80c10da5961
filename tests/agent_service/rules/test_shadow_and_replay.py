"""Runs that only listen, and runs that do again what another did."""

from dataclasses import replace

import pytest

from agent_service.app import verify_store
from agent_service.client import (
    AgentClient,
    Hyperparameter,
    Mode,
    PPOSettings,
    RandomSettings,
    ReplaySettings,
    Reward,
)
from agent_service.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import NOISE, spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]


def train(client: AgentClient, controller: str, *, chunks: int = 5) -> list[float]:
    """Train a run named as its controller; return what its chunks were decided to run under."""
    values = []
    with client.run(controller, run_id=controller) as run:
        for chunk in range(1, chunks + 1):
            values.append(run.hyperparameters["dropout"])
            applied = {"dropout": 0.125} if chunk == 2 else None
            losses = [loss / chunk for loss in LOSSES]
            run.report_chunk(losses, training_score=0.5, validation_score=0.5, applied=applied)
    return values


def test_a_replay_does_what_the_run_did(served: ServedAgent, client: AgentClient) -> None:
    """Chunk by chunk what it truly ran under, then its last values; and the log verifies."""
    client.create_controller(spec("source", RandomSettings()))
    source = train(client, "source")
    client.create_controller(spec("again", ReplaySettings(run_id="source")))

    replayed = train(client, "again", chunks=7)

    assert replayed == [source[0], 0.125, *source[2:], source[-1], source[-1]]
    assert not any(t.action.explored for t in client.transitions(controller="again"))
    assert verify_store(served.url) == 6 + 8


def test_given_values_are_replayed(served: ServedAgent, client: AgentClient) -> None:
    """As those of a stored run are; the same again answers the controller, others are refused."""
    given = ReplaySettings(values=({"dropout": 0.125}, {"dropout": 0.5}))
    for _ in range(2):
        client.create_controller(spec("given", given))

    assert train(client, "given", chunks=3) == [0.125, 0.5, 0.5]
    assert verify_store(served.url) == 4
    with pytest.raises(AlreadyExists):
        client.create_controller(spec("given", replace(given, values=given.values[:1])))


def test_a_replay_is_created_once(client: AgentClient) -> None:
    """The same again answers it, and it comes back naming its run; of another run it differs."""
    client.create_controller(spec("source", RandomSettings()))
    train(client, "source")
    client.create_controller(spec("other", RandomSettings(), seed=1))
    train(client, "other")

    for _ in range(2):
        made = client.create_controller(spec("again", ReplaySettings(run_id="source")))
        assert made.spec.replay.run_id == "source"
    with pytest.raises(AlreadyExists):
        client.create_controller(spec("again", ReplaySettings(run_id="other")))


def test_what_cannot_be_replayed_is_refused(client: AgentClient) -> None:
    """An unknown run, one that goes on, one without a chunk, one of other hyperparameters."""
    client.create_controller(spec("source", RandomSettings()))
    client.run("source", run_id="live").report_chunk(
        LOSSES, training_score=0.5, validation_score=0.5
    )
    client.run("source", run_id="empty").finish()
    train(client, "source")
    narrow = Hyperparameter(name="dropout", low=0.0, high=0.01)
    refused = [
        (spec("x", ReplaySettings(run_id="nobody")), NotFound),
        (spec("x", ReplaySettings(run_id="live")), FailedPrecondition),
        (spec("x", ReplaySettings(run_id="empty")), FailedPrecondition),
        (
            spec("x", ReplaySettings(run_id="source"), hyperparameters=(NOISE,)),
            InvalidArgument,
        ),
        (
            spec("x", ReplaySettings(run_id="source"), hyperparameters=(narrow,)),
            InvalidArgument,
        ),
    ]

    for wrong, error in refused:
        with pytest.raises(error):
            client.create_controller(wrong)

    assert [c.spec.name for c in client.list_controllers()] == ["source"]


def test_a_shadow_run_records_what_would_have_been_decided(
    served: ServedAgent, client: AgentClient
) -> None:
    """The actions of a frozen run in the same states, beside what the child ran under."""
    client.create_controller(spec())
    decided: dict[str, list[float]] = {}
    for mode in (Mode.FROZEN, Mode.SHADOW):
        applied = {"dropout": 0.5} if mode is Mode.SHADOW else None
        with client.run("c", run_id=mode.value, mode=mode) as run:
            decided[mode] = []
            for chunk in range(1, 5):
                decided[mode].append(run.hyperparameters["dropout"])
                losses = [loss / chunk for loss in LOSSES]
                run.report_chunk(losses, training_score=0.5, validation_score=0.5, applied=applied)

    assert decided[Mode.SHADOW] == decided[Mode.FROZEN]
    log = list(client.transitions(run_id="shadow"))
    assert {t.use for t in log} == {pb.USE_RECORDED}
    assert [dict(t.applied.values) for t in log] == [{"dropout": 0.5}] * 4
    assert client.get_run("shadow").mode == pb.MODE_SHADOW
    assert verify_store(served.url) == 10


def test_a_shadow_run_must_say_what_it_ran_under(client: AgentClient) -> None:
    """A report without `applied` is refused by field; the run stands where it stood."""
    client.create_controller(spec())
    run = client.run("c", run_id="r", mode=Mode.SHADOW)

    with pytest.raises(InvalidArgument) as raised:
        run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)

    assert [v.field for v in raised.value.violations] == ["applied"]
    assert client.get_run("r").reported_chunks == 0


def test_a_frozen_controller_may_be_shadowed(client: AgentClient) -> None:
    """Shadow is no learning; and a controller itself is never in shadow."""
    client.create_controller(spec())
    client.set_mode("c", Mode.FROZEN)

    assert not client.run("c", mode=Mode.SHADOW).action.explored
    with pytest.raises(InvalidArgument, match="mode of runs"):
        client.set_mode("c", Mode.SHADOW)
    with pytest.raises(InvalidArgument, match="mode of runs"):
        client.create_controller(spec("d"), Mode.SHADOW)


def test_transitions_of_too_old_a_policy_are_recorded(
    served: ServedAgent, client: AgentClient
) -> None:
    """Decided more than `max_staleness` versions ago: never learned from, and in no one's way."""
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,), max_staleness=1)
    client.create_controller(spec(algorithm=small, reward=Reward.GIVEN))
    old = client.run("c", run_id="old")
    old.report_reward(LOSSES, 0.5)
    data = client.export_policy("c")
    for name in ("other", "third"):
        client.create_controller(spec(name, small, reward=Reward.GIVEN, seed=ord(name[0])))
        client.import_policy("c", client.export_policy(name))
    assert client.export_policy("c") != data

    old.report_reward(LOSSES, 0.5)
    with client.run("c", run_id="new") as run:
        for chunk in range(4):
            run.report_reward(LOSSES, chunk / 4)
    while learn_once(served.store):
        pass

    uses = {(t.run_id, t.chunk_index): t.use for t in client.transitions()}
    assert uses["old", 1] == pb.USE_RECORDED
    assert [uses["new", chunk] for chunk in range(1, 5)] == [pb.USE_LEARNED] * 4
    assert client.get_controller("c").policy_version == 4
