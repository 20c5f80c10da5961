"""Policies as the package ships them, made by tests in a folder of their own."""

from pathlib import Path

from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.specs import Observe
from agent_service.learning import policy_file
from agent_service.learning.snapshot import PolicySnapshot, initial_snapshot
from tests.agent_service.specs import DROPOUT, spec

SETTINGS = PPOSettings(observe=Observe.UNIVERSAL, center_rewards=False)


def ship(
    folder: Path, name: str = "dropout-1", hyperparameter: Hyperparameter = DROPOUT, seed: int = 7
) -> PolicySnapshot:
    """Write a policy that tells states apart, and return it."""
    of = spec("learned", SETTINGS, hyperparameters=(hyperparameter,), chunk_size=20, seed=seed)
    arrays = dict(initial_snapshot(of).arrays)
    arrays["action_net.weight"] = arrays["action_net.weight"] * 40
    policy = PolicySnapshot(arrays)
    data = policy_file.to_bytes(policy, of, policy_version=31)
    (folder / f"{name}.safetensors").write_bytes(data)
    return policy
