"""Shadow runs, replays of what another run did, and transitions of too old a policy."""

from dataclasses import replace

import pytest

from agent_service.app import verify_store
from agent_service.client import (
    AgentClient,
    ControllerSpec,
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
from tests.agent_service.calls import LOSSES, report
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import NOISE, spec
from tests.given import ServedAgent


def train(
    client: AgentClient,
    controller: str,
    *,
    chunks: int = 5,
    mode: Mode | None = None,
    applied: dict[int, dict[str, float]] | None = None,
) -> list[float]:
    """Train a run, named as its controller and mode; return what was decided for its chunks."""
    values = []
    with client.run(controller, run_id=f"{controller}{mode or ''}", mode=mode) as run:
        for chunk in range(1, chunks + 1):
            values.append(run.hyperparameters["dropout"])
            losses = [loss / chunk for loss in LOSSES]
            other = (applied or {}).get(chunk)
            run.report_chunk(losses, training_score=0.5, validation_score=0.5, applied=other)
    return values


def test_a_replay_does_what_the_run_did(served: ServedAgent, client: AgentClient) -> None:
    """Chunk by chunk the values it ran under, then its last; the same spec again answers it."""
    client.create_controller(spec("source", RandomSettings()))
    source = train(client, "source", applied={2: {"dropout": 0.125}})
    for _ in range(2):
        made = client.create_controller(spec("again", ReplaySettings(run_id="source")))
        assert made.spec.replay.run_id == "source"

    replayed = train(client, "again", chunks=7)

    assert replayed == [source[0], 0.125, *source[2:], source[-1], source[-1]]
    assert not any(t.action.explored for t in client.transitions(controller="again"))
    assert verify_store(served.url) == 6 + 8
    with pytest.raises(AlreadyExists):
        client.create_controller(spec("again", ReplaySettings(run_id="again")))


def test_given_values_are_replayed(served: ServedAgent, client: AgentClient) -> None:
    """As those of a stored run are; the same again answers the controller, others are refused."""
    given = ReplaySettings(values=({"dropout": 0.125}, {"dropout": 0.5}))
    for _ in range(2):
        client.create_controller(spec("given", given))

    assert train(client, "given", chunks=3) == [0.125, 0.5, 0.5]
    assert verify_store(served.url) == 4
    with pytest.raises(AlreadyExists):
        client.create_controller(spec("given", replace(given, values=given.values[:1])))


NARROW = Hyperparameter(name="dropout", low=0.0, high=0.01)


@pytest.mark.parametrize(
    ("of", "error"),
    [
        (spec("x", ReplaySettings(run_id="nobody")), NotFound),
        (spec("x", ReplaySettings(run_id="live")), FailedPrecondition),
        (spec("x", ReplaySettings(run_id="empty")), FailedPrecondition),
        (spec("x", ReplaySettings(run_id="source"), hyperparameters=(NOISE,)), InvalidArgument),
        (spec("x", ReplaySettings(run_id="source"), hyperparameters=(NARROW,)), InvalidArgument),
    ],
)
def test_some_runs_cannot_be_replayed(
    client: AgentClient, of: ControllerSpec, error: type[Exception]
) -> None:
    """An unknown run, a live one, one without a chunk, one of other hyperparameters or ranges."""
    client.create_controller(spec("source", RandomSettings()))
    report(client.run("source", run_id="live"))
    client.run("source", run_id="empty").finish()
    train(client, "source")

    with pytest.raises(error):
        client.create_controller(of)

    assert [c.spec.name for c in client.list_controllers()] == ["source"]


def test_a_shadow_run_records_the_decisions_of_a_frozen_one(
    served: ServedAgent, client: AgentClient
) -> None:
    """The actions of a frozen run in the same states, beside what the child ran under."""
    client.create_controller(spec())
    client.set_mode("c", Mode.FROZEN)
    applied = {chunk: {"dropout": 0.5} for chunk in range(1, 5)}

    shadow = train(client, "c", mode=Mode.SHADOW, chunks=4, applied=applied)

    assert shadow == train(client, "c", mode=Mode.FROZEN, chunks=4)
    log = list(client.transitions(run_id="cshadow"))
    assert {t.use for t in log} == {pb.USE_RECORDED}
    assert [dict(t.applied.values) for t in log] == list(applied.values())
    assert client.get_run("cshadow").mode == pb.MODE_SHADOW
    assert verify_store(served.url) == 10


def test_a_shadow_run_must_report_its_own_values(client: AgentClient) -> None:
    """A report without `applied` is refused by field; and no controller is in shadow mode."""
    client.create_controller(spec())
    run = client.run("c", run_id="r", mode=Mode.SHADOW)

    with pytest.raises(InvalidArgument) as raised:
        report(run)

    assert [v.field for v in raised.value.violations] == ["applied"]
    assert client.get_run("r").reported_chunks == 0
    with pytest.raises(InvalidArgument, match="mode of runs"):
        client.create_controller(spec("d"), Mode.SHADOW)


def test_transitions_of_too_old_a_policy_are_recorded(
    served: ServedAgent, client: AgentClient
) -> None:
    """Decided more than `max_staleness` versions ago, they are all dropped at once.

    Rollout by rollout, a learner that is behind would drop fewer than come in, and never learn.
    """
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,), max_staleness=1)
    client.create_controller(spec(algorithm=small, reward=Reward.GIVEN))
    old = client.run("c", run_id="old")
    for _ in range(9):
        old.report_reward(LOSSES, 0.5)
    for name in ("other", "third"):
        client.create_controller(spec(name, small, reward=Reward.GIVEN, seed=ord(name[0])))
        client.import_policy("c", client.export_policy(name))

    old.report_reward(LOSSES, 0.5)
    with client.run("c", run_id="new") as run:
        for chunk in range(4):
            run.report_reward(LOSSES, chunk / 4)
    learn_once(served.store)
    uses = {(t.run_id, t.chunk_index): t.use for t in client.transitions()}
    assert [uses["old", chunk] for chunk in range(1, 10)] == [pb.USE_RECORDED] * 9

    while learn_once(served.store):
        pass

    uses = {(t.run_id, t.chunk_index): t.use for t in client.transitions()}
    assert [uses["new", chunk] for chunk in range(1, 5)] == [pb.USE_LEARNED] * 4
    assert client.get_controller("c").policy_version == 4
