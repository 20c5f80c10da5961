"""Specs that the tests of the agent service use."""

from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.specs import ControllerSpec, Settings

DROPOUT = Hyperparameter(name="dropout", low=0.0, high=0.9)
NOISE = Hyperparameter(name="noise", low=0.001, high=1.0)


def spec(
    name: str = "c",
    algorithm: Settings | None = None,
    *,
    reward: Reward = Reward.GAP,
    chunk_size: int = 4,
    hyperparameters: tuple[Hyperparameter, ...] = (DROPOUT,),
    seed: int = 7,
    diverged_reward: float | None = None,
) -> ControllerSpec:
    """Return a small spec; PPO with its defaults unless told otherwise."""
    return ControllerSpec(
        name=name,
        chunk_size=chunk_size,
        hyperparameters=hyperparameters,
        reward=reward,
        seed=seed,
        diverged_reward=diverged_reward,
        algorithm=algorithm or PPOSettings(),
    )
