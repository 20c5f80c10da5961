"""Controllers that decide by a policy of the package, on a real server and store."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_service.app import verify_store
from agent_service.client import (
    AgentClient,
    ControllerSpec,
    Hyperparameter,
    Mode,
    PPOSettings,
    Reward,
    Run,
    Scale,
    WarmStart,
    pretrained,
)
from agent_service.controllers import universal
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from agent_service.domain.problem import Problem
from agent_service.domain.specs import Observe
from agent_service.learning import policy_file, shipped_policies
from agent_service.learning.snapshot import PolicySnapshot
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.shipped import ship
from tests.agent_service.specs import DROPOUT, spec
from tests.given import ServedAgent

RATE = Hyperparameter("rate", low=0.0, high=0.9)
NOISE = Hyperparameter("noise", low=0.0, high=1.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the package's policies."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(shipped_policies, "FOLDER", folder)
    return folder


@pytest.fixture
def policy(folder: Path) -> PolicySnapshot:
    """The package's `dropout-1`; `noise-1` is there, too."""
    ship(folder, "noise-1", NOISE, seed=8)
    return ship(folder)


def steered(name: str = "c", policy: str = "dropout-1", **changes: Any) -> ControllerSpec:
    """Return the spec of a controller whose hyperparameter has a name of the user's own."""
    made = spec(name, pretrained(policy), hyperparameters=(RATE,), reward=Reward.VALIDATION)
    return replace(made, **changes)


def train(run: Run, chunks: int = 3, applied: dict[str, float] | None = None) -> None:
    for chunk in range(run.action.chunk_index, run.action.chunk_index + chunks):
        losses = [2.0 / chunk, 1.5 / chunk, 1.0, 0.5]
        run.report_chunk(losses, training_score=0.25, validation_score=chunk / 20, applied=applied)


@pytest.mark.parametrize("mode", Mode)
def test_every_chunk_runs_under_the_mean_of_the_policy(
    served: ServedAgent, client: AgentClient, policy: PolicySnapshot, mode: Mode
) -> None:
    """From the first, at the first universal observation; in each mode. Nothing is learned."""
    client.create_controller(steered())
    applied = {"rate": 0.5} if mode is Mode.SHADOW else None

    with client.run("c", run_id="r", mode=mode, planned_chunks=8) as run:
        train(run, applied=applied)

    log = list(client.transitions(run_id="r"))
    setting = universal.Setting(
        problem=Problem(), planned_chunks=8, chunk_size=4, hyperparameters=1
    )
    assert list(log[0].context) == universal.first(setting).tolist()
    means = [policy.mean(np.array(t.context)).tolist() for t in log]
    assert [list(t.sample) for t in log] == means
    assert len({mean for (mean,) in means}) == 3
    assert [t.action.values["rate"] for t in log] == [RATE.value(mean) for (mean,) in means]
    assert not any(t.action.explored for t in log)
    assert {(t.use, t.action.policy_version) for t in log} == {(pb.USE_RECORDED, 1)}
    assert verify_store(served.url) == 4


def test_the_store_has_the_policy_once_and_for_all(
    served: ServedAgent, client: AgentClient, policy: PolicySnapshot, folder: Path
) -> None:
    """As version 1, its arrays as they were shipped; the package's file is not needed again.

    Creating it again answers it, its runs go on, and the log is verified.
    """
    created = client.create_controller(steered())
    before = client.run("c", run_id="r")
    train(before)
    shutil.rmtree(folder)

    assert client.create_controller(steered()).create_time == created.create_time
    with client.run("c", run_id="r") as run:
        assert run.action == before.action
        train(run)

    (version,) = client.list_policy_versions("c")
    assert (version.version, version.origin) == (1, pb.ORIGIN_INITIAL)
    kept = policy_file.from_bytes(client.export_policy("c"), steered()).arrays
    assert {n: a.tobytes() for n, a in kept.items()} == {
        n: a.tobytes() for n, a in policy.arrays.items()
    }
    assert created.spec.pretrained.policy == "dropout-1"
    assert verify_store(served.url) == 7
    with pytest.raises(AlreadyExists, match="policy is 'dropout-1' there, 'noise-1' sent"):
        client.create_controller(steered(policy="noise-1"))


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (
            steered(policy="dropout-9"),
            "'dropout-9' is not one of this service's: dropout-1, noise-1",
        ),
        (
            steered(hyperparameters=(replace(RATE, high=0.5),)),
            r"'dropout-1' decides one hyperparameter in \[0.0, 0.9\], linear; .*limits=",
        ),
        (steered(hyperparameters=(Hyperparameter("rate", 0.01, 0.9, Scale.LOG),)), "linear"),
        (steered(policy="noise-1"), r"in \[0.0, 1.0\]"),
        (steered(reward=Reward.GIVEN), "need scores, which reward `given` does without"),
    ],
)
def test_what_the_policy_cannot_decide_is_refused(
    client: AgentClient, policy: PolicySnapshot, of: ControllerSpec, says: str
) -> None:
    """A name that there is not, another range or scale, no scores: named, and nothing is made."""
    with pytest.raises(InvalidArgument, match=says) as raised:
        client.create_controller(of)

    assert [v.field for v in raised.value.violations] == ["spec.pretrained.policy"]
    assert not list(client.list_controllers())


def test_it_decides_one_hyperparameter() -> None:
    with pytest.raises(InvalidArgument, match=r"pretrained\.policy: .* one hyperparameter, and 2"):
        steered(hyperparameters=(DROPOUT, NOISE))
    with pytest.raises(InvalidArgument, match=r"policy: '\.\./x' does not match"):
        pretrained("../x")


def test_its_policy_is_not_replaced(client: AgentClient, policy: PolicySnapshot) -> None:
    """Neither by a file nor by its own; frozen or not it decides alike."""
    client.create_controller(steered())
    first = client.run("c").hyperparameters

    with pytest.raises(FailedPrecondition, match="decides by 'dropout-1' for good"):
        client.import_policy("c", client.export_policy("c"))
    client.set_mode("c", Mode.FROZEN)

    assert client.get_controller("c").policy_version == 1
    assert client.run("c").hyperparameters == first


# Beginning with it


def heir(start: WarmStart, **changes: Any) -> ControllerSpec:
    """Return the spec of a PPO controller with a warm start, which learns from 8 chunks."""
    settings = PPOSettings(
        rollout_size=8, batch_size=4, n_epochs=2, observe=Observe.UNIVERSAL, warm_start=start
    )
    made = spec("heir", settings, hyperparameters=(RATE,), reward=Reward.VALIDATION)
    return replace(made, **changes)


@pytest.mark.parametrize(
    "start", [WarmStart(pretrained="dropout-1"), WarmStart(controller="c", policy_version=1)]
)
def test_another_controller_begins_with_it_and_learns_on(
    served: ServedAgent, client: AgentClient, policy: PolicySnapshot, start: WarmStart
) -> None:
    """By the policy's name, or by that of a controller that decides by it. The same again is it."""
    client.create_controller(steered())
    made = [client.create_controller(heir(start)) for _ in range(2)]

    first = client.run("heir", mode=Mode.FROZEN)
    with client.run("heir") as run:
        train(run, chunks=8)

    assert made[0] == made[1]
    assert made[0].spec.ppo.warm_start.pretrained == start.pretrained
    assert first.hyperparameters == client.run("c").hyperparameters
    begun = policy_file.from_bytes(client.export_policy("heir"), heir(start)).arrays
    assert begun["reward.count"] == 0
    assert {n: begun[n].tobytes() for n in policy.arrays} == {
        n: a.tobytes() for n, a in policy.arrays.items()
    }
    assert learn_once(served.store) == 1
    assert client.get_controller("heir").policy_version == 2
    assert verify_store(served.url) == 11


BY_NAME = WarmStart(pretrained="dropout-1")
WIDE = PPOSettings(observe=Observe.UNIVERSAL, net_arch=(9,), warm_start=BY_NAME)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (
            heir(WarmStart(pretrained="dropout-9")),
            "'dropout-9' is not one of .*: dropout-1, noise-1",
        ),
        (heir(BY_NAME, algorithm=WIDE), r"made for net_arch \[64, 64\], here: \[9\]"),
        (heir(BY_NAME, hyperparameters=(NOISE,)), r"in \[0.0, 0.9\], linear"),
        (heir(BY_NAME, hyperparameters=(DROPOUT, NOISE)), "decides one hyperparameter"),
    ],
)
def test_a_ppo_controller_that_does_not_fit_the_policy_is_refused(
    client: AgentClient, policy: PolicySnapshot, of: ControllerSpec, says: str
) -> None:
    """By what does not fit; and nothing is made."""
    with pytest.raises(InvalidArgument, match=says) as raised:
        client.create_controller(of)

    assert [v.field for v in raised.value.violations] == ["spec.ppo.warm_start"]
    assert not list(client.list_controllers())


def test_a_warm_start_names_one_policy_that_its_controller_can_see_by() -> None:
    """Said where it is written: both kinds of name, neither, a version, or losses alone."""
    wrong: list[tuple[Callable[[], object], str]] = [
        (
            lambda: WarmStart(controller="c", pretrained="dropout-1"),
            "pretrained: .* one of the two",
        ),
        (WarmStart, "controller: is not set; name a controller, or set pretrained"),
        (lambda: WarmStart(pretrained="dropout-1", policy_version=2), "policy_version: .* leave"),
        (lambda: WarmStart(pretrained="Dropout"), "pretrained: 'Dropout' does not match"),
        (lambda: PPOSettings(warm_start=BY_NAME), "observe: is losses; .* set observe='universal'"),
    ]
    for make, says in wrong:
        with pytest.raises(InvalidArgument, match=says):
            make()
