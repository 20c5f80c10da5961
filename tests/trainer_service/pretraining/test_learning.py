"""Learning across problems: it learns, and one seed gives one policy, interrupted or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent_service.controllers import universal
from agent_service.domain.errors import AgentError
from agent_service.learning.policy_file import from_bytes
from tests.given import run_command
from tests.trainer_service.pretraining.problems import tiny
from trainer_service.pretraining.learning import Learner, compared, players
from trainer_service.pretraining.policy import (
    Episodes,
    new_policy,
    policy_bytes,
    spec_of,
    update,
)
from trainer_service.training.regularizers.registry import steerable

DROPOUT = steerable("dropout").strength


def learner(folder: Path, **changes: Any) -> Learner:
    settings: dict[str, Any] = {"data": Path(), "folder": folder, "seed": 3, "compared": 1}
    return Learner(tiny(), **settings | changes)


def test_one_seed_gives_one_policy_however_it_is_interrupted(tmp_path: Path) -> None:
    """In one go, in parts by new processes' learners, and in two processes: the same bytes."""
    with players(1) as player:
        whole = learner(tmp_path / "whole")
        whole.step(player)
        whole.compare(player)
        whole.step(player)
        learner(tmp_path / "parts").step(player)
        other = learner(tmp_path / "other", seed=4)
        other.step(player)
    with players(2) as player:
        parts = learner(tmp_path / "parts")
        parts.compare(player)
        parts.step(player)

    assert (whole.is_done, parts.is_done, other.is_done) == (True, True, False)
    assert parts.policy("x") == whole.policy("x")
    assert other.policy("x") != whole.policy("x")
    timeless = [{k: v for k, v in c.items() if k != "seconds"} for c in whole.curves]
    assert [{k: v for k, v in c.items() if k != "seconds"} for c in parts.curves] == timeless


def test_a_folder_of_another_policy_is_left_alone(tmp_path: Path) -> None:
    learner(tmp_path).save()
    before = (tmp_path / "learning.pt").read_bytes()

    with pytest.raises(AgentError, match="of other problems or another seed"):
        learner(tmp_path, seed=9)
    assert (tmp_path / "learning.pt").read_bytes() == before


def test_an_untrained_policy_sets_one_sensible_value() -> None:
    model = new_policy(tiny().learning, DROPOUT, seed=0)
    anywhere = torch.randn(50, universal.size(1))

    actions = model.policy(anywhere, deterministic=True)[0].flatten().tolist()

    assert [DROPOUT.value(action) for action in actions] == pytest.approx([0.25] * 50, abs=1e-6)


def test_noise_lasts_for_a_run_and_differs_between_runs() -> None:
    """About as large as asked for, where hidden units are as large as assumed."""
    learning = tiny().learning
    model = new_policy(learning, DROPOUT, seed=0)
    seen = torch.randn(2000, universal.size(1))
    model.policy.reset_noise(2000)
    with torch.no_grad():
        first, _, _ = model.policy(seen)
        again, _, _ = model.policy(seen)
        mean, _, _ = model.policy(seen, deterministic=True)

    assert torch.equal(first, again)
    deviation = float((first - mean).std())
    assert 0.5 * learning.deviation < deviation < 2 * learning.deviation


def test_an_update_follows_the_rewards() -> None:
    """Runs that lie high where the problem has many classes, and low elsewhere, earn more."""
    model = new_policy(tiny(learning={"batch_size": 256}).learning, DROPOUT, seed=1)
    rng = np.random.default_rng(0)
    many = universal.names(1).index("ln classes / 2 - 1")
    torch.manual_seed(0)
    for number in range(25):
        seen = rng.normal(size=(4, 64, universal.size(1))).astype(np.float32)
        seen[..., many] = rng.choice([-1.0, 1.0], 64)
        model.policy.reset_noise(64)
        with torch.no_grad():
            made = [model.policy(torch.from_numpy(row)) for row in seen]
        actions = np.stack([m[0].numpy() for m in made])
        wanted = np.where(seen[..., many] > 0, 0.5, -0.8)
        episodes = Episodes(
            observations=seen,
            actions=actions,
            log_probabilities=np.stack([m[2].numpy() for m in made]),
            rewards=-np.abs(actions[..., 0] - wanted).astype(np.float32),
            values=actions[..., 0].astype(np.float64),
            last=np.zeros(64),
            best=np.zeros(64),
            validation=np.zeros(64),
        )
        update(model, [episodes], left=1.0, seed=number)
    probe = np.zeros((2, universal.size(1)), np.float32)
    probe[:, many] = (-1.0, 1.0)

    low, high = model.policy(torch.from_numpy(probe), deterministic=True)[0].flatten().tolist()

    assert low < -0.55
    assert high > 0.2


def test_the_file_holds_the_mean_action() -> None:
    """As stable-baselines3 computes it, to the precision of float32."""
    model = new_policy(tiny().learning, DROPOUT, seed=2)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    data = policy_bytes(model, regularizer="dropout", name="dropout-1")
    snapshot = from_bytes(data, spec_of("dropout", "any-name"))
    data = policy_bytes(model, regularizer="dropout", name="dropout-1", hidden=[4, 5])
    blind = from_bytes(data, spec_of("dropout", "any-name"))

    for seen in np.random.default_rng(0).normal(size=(20, universal.size(1))):
        for policy, blinded in ((snapshot, seen), (blind, np.array([*seen[:4], 0, 0, *seen[6:]]))):
            inputs = torch.tensor(blinded[None], dtype=torch.float32)
            action = model.policy(inputs, deterministic=True)[0]
            assert policy.mean(seen) == pytest.approx(action.detach().numpy()[0], abs=1e-5)


def test_comparisons_are_paired_by_problem() -> None:
    """The best default is one constant for all; the grid's is chosen by validation for each."""
    last = np.array([[0.5, 0.6], [0.9, 0.5], [0.5, 0.5]])
    validation = np.array([[0.1, 0.2], [0.1, 0.2], [0.3, 0.2]])
    table = {"last": last, "best": last, "validation": validation}

    figures = compared(np.full(3, 0.6), np.full(3, 0.6), table)

    assert figures["last against default"] == pytest.approx(np.mean([0.1, -0.3, 0.1]))
    assert figures["last against grid"] == pytest.approx(np.mean([0.0, 0.1, 0.1]))
    spread = np.std([0.0, 0.1, 0.1], ddof=1) / np.sqrt(3)
    assert figures["last against grid +-"] == pytest.approx(1.96 * spread)


def test_the_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Out of time after one update; the same command then finishes, and a page shows the curves."""
    problems = tmp_path / "small.toml"
    problems.write_text(
        "twins = 2\ngroups = 2\nchunk_size = 4\nchunks = [2, 2]\n[[data]]\ndataset = 'prototypes'\n"
        "sizes = [8]\n[[models]]\nmodel = 'mlp'\nwidth = [0.0625, 0.0625]\ndepth = [1]\n"
        "[learning]\nchildren = 8\nstacks = 1\nbatch_size = 4\n"
    )
    words = ["pretrain", str(problems), "--output", str(tmp_path / "out"), "--compared", "1"]

    first = run_command("trainer_service", *words, "--minutes", "1e-6")
    second = run_command("trainer_service", *words)
    third = run_command("trainer_service", *words)

    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0), second.stderr
    assert "the same command goes on" in first.stdout
    assert "8 of 8 children" in second.stdout
    assert (tmp_path / "out/policy.safetensors").exists()
    page = (tmp_path / "out/curves.html").read_text()
    assert "8 children in 2 updates" in page
    assert "less the best default" in page
