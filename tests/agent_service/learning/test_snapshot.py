"""The NumPy policy: equal to stable-baselines3's, drawn by its law, and its files."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from agent_service.controllers.observations import observation_size
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import InvalidArgument
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.specs import ControllerSpec
from agent_service.learning import policy_file, sb3
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.rollout import Segment
from agent_service.learning.snapshot import PolicySnapshot, initial_snapshot
from tests.agent_service.specs import DROPOUT, NOISE, spec

LOSSES = PPOSettings(n_epochs=1)
EVERYTHING = replace(LOSSES, observe_action=True, observe_progress=True, observe_scores=True)


@functools.cache
def trained(spec: ControllerSpec) -> PolicySnapshot:
    """Return a policy away from its start: two updates on arbitrary transitions."""
    rng = np.random.default_rng(3)
    snapshot = initial_snapshot(spec)
    for seed in range(2):
        segment = Segment(
            observations=rng.uniform(0, 3, (64, observation_size(spec))),
            samples=rng.standard_normal((64, len(spec.hyperparameters))),
            log_probabilities=np.full(64, -1.5),
            rewards=rng.standard_normal(64),
            next_observation=rng.uniform(0, 3, observation_size(spec)),
            terminated=False,
        )
        snapshot = sb3.update(snapshot, spec, [segment], seed=seed).snapshot
    return snapshot


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("net_arch", [(8,), (16, 8, 4)])
@pytest.mark.parametrize("hyperparameters", [(DROPOUT,), (DROPOUT, NOISE)])
@pytest.mark.parametrize("base", [LOSSES, EVERYTHING], ids=["losses", "everything"])
def test_it_decides_as_stable_baselines3_does(
    normalize: bool,
    net_arch: tuple[int, ...],
    hyperparameters: tuple[Hyperparameter, ...],
    base: PPOSettings,
) -> None:
    """Mean and log probability agree within 1e-6, whatever is observed."""
    ppo = replace(base, net_arch=net_arch, normalize_observations=normalize)
    of = spec(algorithm=ppo, hyperparameters=hyperparameters, chunk_size=20)
    snapshot = trained(of)
    model = sb3._build(of, snapshot.arrays)
    rng = np.random.default_rng(5)
    for _ in range(20):
        observation = rng.uniform(0, 3, observation_size(of))
        noise = rng.standard_normal(len(hyperparameters))
        sample, log_probability = snapshot.sample(observation, noise)
        seen = torch.from_numpy(sb3._seen(snapshot.arrays, observation[None]))
        with torch.no_grad():
            action = torch.tensor(sample[None], dtype=torch.float32)
            _, theirs, _ = model.policy.evaluate_actions(seen, action)
            mean = model.policy._predict(seen, deterministic=True).numpy()[0]

        np.testing.assert_allclose(snapshot.mean(observation), mean, rtol=0, atol=1e-6)
        assert log_probability == pytest.approx(float(theirs), abs=1e-6)


def test_it_starts_by_stable_baselines3s_law() -> None:
    """Orthogonal weights with its gains, zero biases, log_std_init; another seed, another draw."""
    arrays = initial_snapshot(spec(chunk_size=20)).arrays
    for name, gain in (
        ("mlp_extractor.policy_net.0.weight", 2**0.5),
        ("mlp_extractor.value_net.2.weight", 2**0.5),
        ("action_net.weight", 0.01),
        ("value_net.weight", 1.0),
    ):
        weight = arrays[name].astype(np.float64)
        small = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-6)
    assert not any(arrays[n].any() for n in arrays if n.endswith(".bias"))

    other = initial_snapshot(spec(chunk_size=20, seed=8)).arrays
    assert not np.array_equal(arrays["value_net.weight"], other["value_net.weight"])


@pytest.mark.parametrize("normalize", [True, False])
def test_files_come_back_to_the_bit(normalize: bool) -> None:
    """A written policy is read back: every array equal, and the same bytes again."""
    of = spec(algorithm=PPOSettings(normalize_observations=normalize))
    snapshot = trained(of)
    data = to_bytes(snapshot, of, policy_version=3)

    back = from_bytes(data, of)

    assert {n: a.tobytes() for n, a in back.arrays.items()} == {
        n: a.tobytes() for n, a in snapshot.arrays.items()
    }
    assert to_bytes(back, of, policy_version=3) == data


def with_manifest(data: bytes, **changes: object) -> bytes:
    """Return a policy file with parts of its manifest replaced or (None) left out."""
    manifest = {
        name: value
        for name, value in (policy_file.read_manifest(data) | changes).items()
        if name not in changes or value is not None
    }
    metadata = {"reinforced-regularization": json.dumps(manifest, sort_keys=True)}
    return safetensors.numpy.save(safetensors.numpy.load(data), metadata)


def test_a_file_from_before_observations_were_told_is_of_losses_and_places() -> None:
    """It loads where losses alone are observed, and for no controller of another meaning."""
    plain = spec()
    data = to_bytes(trained(plain), plain, policy_version=3)
    old = with_manifest(data, observes=None, max_change=None)
    assert b"observes" not in old.replace(b"`observes`", b"")

    assert from_bytes(old, plain).arrays.keys() == from_bytes(data, plain).arrays.keys()
    for other in (PPOSettings(observe_progress=True), PPOSettings(max_change=0.5)):
        with pytest.raises(InvalidArgument, match="policy: was made for"):
            from_bytes(old, spec(algorithm=other))


@pytest.mark.parametrize(
    ("made", "read"),
    [
        (LOSSES, PPOSettings(observe_action=True)),
        # Both see five numbers: what the fifth one is, the file tells.
        (PPOSettings(observe_action=True), PPOSettings(observe_progress=True)),
        (EVERYTHING, LOSSES),
        (PPOSettings(max_change=0.5), LOSSES),
        (PPOSettings(max_change=0.5), PPOSettings(max_change=0.2)),
    ],
)
def test_a_file_of_another_meaning_is_refused(made: PPOSettings, read: PPOSettings) -> None:
    """Another observation, or another sense of the output, is named, though shapes may agree."""
    data = to_bytes(initial_snapshot(spec(algorithm=made)), spec(algorithm=made), policy_version=1)

    with pytest.raises(InvalidArgument, match=r"was made for (observes|max_change)"):
        from_bytes(data, spec(algorithm=read))


@pytest.mark.parametrize(
    ("reader", "is_kept"),
    [
        (spec("other", PPOSettings(gamma=0.5, rollout_size=8), seed=9), True),
        (spec(reward=Reward.VALIDATION), False),
        (spec(algorithm=PPOSettings(center_rewards=False)), None),
    ],
)
def test_a_file_of_other_learning_settings_is_taken(
    reader: ControllerSpec, is_kept: bool | None
) -> None:
    """Name, seed, reward and settings may differ; statistics of no or another reward start anew."""
    made = trained(spec())
    assert made.arrays["reward.count"] == 128

    read = from_bytes(to_bytes(made, spec(), policy_version=3), reader).arrays

    assert np.array_equal(read["action_net.weight"], made.arrays["action_net.weight"])
    count = None if is_kept is None else 128 * is_kept
    assert read.get("reward.count") == count
    plain = spec(algorithm=PPOSettings(center_rewards=False))
    without = to_bytes(trained(plain), plain, policy_version=3)
    assert from_bytes(without, reader).arrays.get("reward.count") == (None if count is None else 0)
