"""Controllers that begin with another one's policy, on a real server and store."""

from dataclasses import replace

import numpy as np
import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import (
    AgentError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, WarmStart
from agent_service.learning.policy_file import from_bytes, read_manifest
from agent_service.rules.catalog import Catalog
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import NOISE, spec
from tests.given import ServedAgent

SMALL = PPOSettings(
    rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,), normalize_observations=True
)


def warm(
    name: str = "warm",
    *,
    source: str = "source",
    version: int = 0,
    settings: PPOSettings = SMALL,
    reward: Reward = Reward.GAP,
) -> ControllerSpec:
    start = WarmStart(controller=source, policy_version=version)
    return spec(name, replace(settings, warm_start=start), reward=reward, seed=99)


def learn(served: ServedAgent, client: AgentClient, controller: str = "source") -> None:
    """Let a controller learn from one run, which makes its next policy version."""
    with client.run(controller) as run:
        for chunk in range(1, 9):
            losses = [2.0 / chunk, 1.5 / chunk, 1.0, 0.5]
            run.report_chunk(losses, training_score=0.25, validation_score=chunk / 10)
    assert learn_once(served.store) == 1


def frozen_values(client: AgentClient, controller: str) -> list[dict[str, float]]:
    run = client.run(controller, mode=Mode.FROZEN)
    return [run.hyperparameters] + [
        run.report_chunk([loss] * 4, training_score=0.5, validation_score=0.5)
        for loss in (3.0, 1.0, 0.5)
    ]


def test_it_begins_with_the_newest_policy_and_all_that_was_learned(
    served: ServedAgent, client: AgentClient
) -> None:
    """All arrays are the source's to the bit; it decides alike, and learns on.

    An older version may be named; with another reward, the statistics of rewards start anew.
    """
    client.create_controller(spec("source", SMALL))
    learn(served, client)
    learn(served, client)
    client.create_controller(warm("older", version=2, reward=Reward.VALIDATION))

    created = client.create_controller(warm())

    source, data = client.export_policy("source", 3), client.export_policy("warm", 1)
    begun, learned = from_bytes(data, warm()), from_bytes(source, spec("source", SMALL))
    assert {n: a.tobytes() for n, a in begun.arrays.items()} == {
        n: a.tobytes() for n, a in learned.arrays.items()
    }
    assert begun.arrays["reward.count"] == 16
    manifest = read_manifest(data)
    assert (manifest["controller"], manifest["policy_version"]) == ("warm", 1)
    assert (created.policy_version, created.spec.ppo.warm_start.policy_version) == (1, 3)
    assert frozen_values(client, "warm") == frozen_values(client, "source")
    learn(served, client, "warm")
    assert client.get_controller("warm").policy_version == 2
    assert verify_store(served.url) == 3 * 9 + 2 * 4
    older = from_bytes(client.export_policy("older"), warm(reward=Reward.VALIDATION)).arrays
    second = from_bytes(client.export_policy("source", 2), warm()).arrays
    assert np.array_equal(older["action_net.weight"], second["action_net.weight"])
    assert older["reward.count"] == 0
    assert older["observation.count"] == 8


def test_it_is_created_once(served: ServedAgent, client: AgentClient) -> None:
    """The same again answers it, after the source learned on and was deleted too.

    Asking for the newest, for the version that this was, or for what GetController shows is the
    same; another version, another source, or no warm start is another spec.
    """
    client.create_controller(spec("source", SMALL))
    client.create_controller(spec("other", SMALL))
    created = client.create_controller(warm())
    learn(served, client)

    for again in (warm(), warm(version=1)):
        assert client.create_controller(again) == created
    for other in (warm(version=2), warm(source="other"), spec("warm", SMALL, seed=99)):
        with pytest.raises(AlreadyExists):
            client.create_controller(other)
    with pytest.raises(AlreadyExists):
        client.create_controller(warm("other"))
    client.delete_controller("source")
    assert client.create_controller(warm()) == created


def test_two_that_create_it_while_the_source_learns_get_the_same(
    served: ServedAgent, client: AgentClient
) -> None:
    """The version that it begins with is that of whose creation is stored first."""
    client.create_controller(spec("source", SMALL))
    catalog = Catalog(served.store)
    first = catalog.prepared(warm())
    learn(served, client)
    second = catalog.prepared(warm())

    created = [catalog.create_controller(new, Mode.LEARNING).result() for new in (first, second)]

    assert created[0] == created[1]
    assert created[0].spec == warm(version=1)


@pytest.mark.parametrize(
    ("of", "error", "says"),
    [
        (warm(source="missing"), NotFound, r"spec\.ppo\.warm_start\.controller"),
        (warm(source="gone"), NotFound, r"spec\.ppo\.warm_start\.controller"),
        (warm(version=7), NotFound, r"spec\.ppo\.warm_start\.policy_version.*its newest is 1"),
        (warm(source="random"), FailedPrecondition, r"spec\.ppo\.warm_start\.controller.*random"),
        (warm(settings=replace(SMALL, net_arch=(9,))), InvalidArgument, "net_arch"),
        (warm(settings=replace(SMALL, observe_scores=True)), InvalidArgument, "observes"),
        (warm(settings=replace(SMALL, max_change=0.5)), InvalidArgument, "max_change"),
        (warm(source="two"), InvalidArgument, "hyperparameters"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(
    client: AgentClient, of: ControllerSpec, error: type[AgentError], says: str
) -> None:
    """A source that is missing, has no policy, or another shape or meaning: named, nothing made."""
    client.create_controller(spec("source", SMALL))
    client.create_controller(spec("random", RandomSettings()))
    client.create_controller(spec("two", SMALL, hyperparameters=(*spec().hyperparameters, NOISE)))
    client.create_controller(spec("gone", SMALL))
    client.delete_controller("gone")

    with pytest.raises(error, match=says) as raised:
        client.create_controller(of)

    if isinstance(raised.value, InvalidArgument):
        assert [v.field for v in raised.value.violations] == ["spec.ppo.warm_start"]
    with pytest.raises(NotFound):
        client.get_controller("warm")


def test_an_imported_file_of_another_controller_is_begun_with(
    served: ServedAgent, client: AgentClient
) -> None:
    """Another name, seed, reward and learning settings: it decides alike, and learns on."""
    client.create_controller(spec("source", SMALL))
    learn(served, client)
    settings = replace(SMALL, learning_rate=1e-4, gamma=0.9, center_rewards=False, log_std_init=0.0)
    client.create_controller(spec("heir", settings, reward=Reward.VALIDATION, seed=3))

    assert client.import_policy("heir", client.export_policy("source")) == 2

    assert frozen_values(client, "heir") == frozen_values(client, "source")
    learn(served, client, "heir")
    assert client.get_controller("heir").policy_version == 3
    assert verify_store(served.url) == 2 * 9 + 2 * 4
