"""Gymnasium environments: a child's training as an episode.

    gymnasium.make("trainer_service.environment:ReinforcedRegularization/SimulatedChild-v0")
    gymnasium.make("trainer_service.environment:ReinforcedRegularization/ChildTraining-v0")

One step is one chunk. No service and no gRPC is involved; only the real child needs torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter, named_values
from agent_service.domain.rewards import REWARDS, Reward, Scores, compute_reward, named
from trainer_service.simulation.child import HIGHEST_RATE, SimulatedChild
from trainer_service.training.regularizers.registry import names_in_words
from trainer_service.training.spec import TrainingSpec, hyperparameters

Observation = npt.NDArray[np.float32]
Action = npt.NDArray[np.float32]

LARGEST_LOSS = 1e12
"""Losses are clipped to this, so that an observation is always finite."""


class ChunkEnvironment(gymnasium.Env[Observation, Action]):
    """Base class: one run of one child.

    - Observation: S_t, float32[N], the losses of the last chunk; S_0 is zeros.
    - Action: float32[h] in [-1, 1], clipped, and mapped to each hyperparameter's range.
    - Reward: R_t by the chosen definition.
    - terminated: after the last planned chunk, or if the child diverged. Never truncated.
    - info of a step: `chunk` (from 1), `values` by name, `training_score`, `validation_score`.

    A seed given to `reset` determines everything that follows, including later resets without a
    seed; each reset starts another child.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # as gymnasium.Env declares it

    def __init__(
        self, *, chunk_size: int, controlled: Sequence[Hyperparameter], reward: Reward | str
    ) -> None:
        """Set up the spaces.

        Raises:
            InvalidArgument: the reward is unknown, or `given`, which an environment cannot provide.
        """
        self.hyperparameters = tuple(controlled)
        self._reward = named(reward)
        if REWARDS[self._reward].is_given:
            raise invalid(
                "reward", "`given` is for trainings that report their own; choose another"
            )
        shape = (chunk_size,)
        self.observation_space = spaces.Box(-LARGEST_LOSS, LARGEST_LOSS, shape, np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.hyperparameters),), np.float32)
        self._scores: Scores | None = None
        self._chunk = 0
        self._is_open = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start another run and return S_0; `options` has no effect."""
        super().reset(seed=seed)
        self._start(int(self.np_random.integers(2**31)))
        self._scores, self._chunk, self._is_open = None, 0, True
        return np.zeros(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Train the next chunk under `action`.

        Raises:
            gymnasium.error.ResetNeeded: the run has ended.
        """
        if not self._is_open:
            raise gymnasium.error.ResetNeeded("no run is active; call reset first")
        values = named_values(self.hyperparameters, [float(unit) for unit in action])
        self._chunk += 1
        losses, scores, ends = self._train(values)
        reward = compute_reward(self._reward, scores, self._scores)
        self._scores, self._is_open = scores, not ends
        info = {
            "chunk": self._chunk,
            "values": values,
            "training_score": scores.training,
            "validation_score": scores.validation,
        }
        observation = np.clip(losses, -LARGEST_LOSS, LARGEST_LOSS).astype(np.float32)
        return observation, reward, ends, False, info

    @abstractmethod
    def _start(self, seed: int) -> None:
        """Start a run with a new child."""

    @abstractmethod
    def _train(self, values: Mapping[str, float]) -> tuple[npt.NDArray[np.float64], Scores, bool]:
        """Train a chunk; return its losses, its scores and whether it is the last."""


class SimulatedChildEnvironment(ChunkEnvironment):
    """The child of `trainer_service.simulation`, whose optimal policy is known."""

    def __init__(
        self,
        *,
        chunks: int = 40,
        chunk_size: int = 20,
        reward: Reward | str = Reward.VALIDATION,
    ) -> None:
        """Set up runs of `chunks` chunks of `chunk_size` losses."""
        rate = Hyperparameter(name="dropout", low=0.0, high=HIGHEST_RATE)
        super().__init__(chunk_size=chunk_size, controlled=[rate], reward=reward)
        self._child = SimulatedChild(chunks=chunks, chunk_size=chunk_size)

    def _start(self, seed: int) -> None:
        self._child.reset(seed)

    def _train(self, values: Mapping[str, float]) -> tuple[npt.NDArray[np.float64], Scores, bool]:
        chunk = self._child.step(values["dropout"])
        scores = Scores(training=chunk.training_score, validation=chunk.validation_score)
        return chunk.losses, scores, self._child.finished


class ChildTrainingEnvironment(ChunkEnvironment):
    """A real child on real images.

    Each run trains a child with another seed on the same data. If a loss is not finite, the run
    ends: both scores of that chunk are 0, and the observation is all zeros. Equal seeds give equal
    runs. Vectorize over processes, not threads: initial weights come from torch's global
    generator.
    """

    def __init__(
        self,
        *,
        training: TrainingSpec | None = None,
        data: str | PathLike[str] = ".",
        device: str = "cpu",
        reward: Reward | str = Reward.GAP,
    ) -> None:
        """Load the data.

        Args:
            training: the child's training, of method `rd` or `rni`; its `seed` is unused. None is
                that of the demo: a ResNet34 with a quarter of the channels on 300 digits, 30% of
                them mislabelled.
            data: the data folder; not needed for digits.
            device: torch device name.
            reward: any but `given`.

        Raises:
            InvalidArgument: the method has no value for an agent to decide.
            DataError: the data set is missing or invalid.
        """
        spec = training or TrainingSpec(
            method="rd", width=0.25, training_size=300, label_noise=0.3, chunks=20
        )
        if not spec.is_reinforced:
            others = names_in_words(is_reinforced=True)
            text = f"{spec.method} leaves no value to decide; choose {others}"
            raise invalid("training.method", text)
        super().__init__(
            chunk_size=spec.chunk_size, controlled=hyperparameters(spec), reward=reward
        )
        # Imported here: torch takes seconds, and the simulated child does not need it.
        import torch

        from trainer_service.training.datasets import load_images

        self._training = spec
        self._images = load_images(spec, Path(data))
        self._device = torch.device(device)

    def _start(self, seed: int) -> None:
        from trainer_service.training.loop import ChildTraining

        self._child = ChildTraining(replace(self._training, seed=seed), self._images, self._device)

    def _train(self, values: Mapping[str, float]) -> tuple[npt.NDArray[np.float64], Scores, bool]:
        from trainer_service.training.loop import Diverged

        try:
            chunk = self._child.train_chunk(values)
        except Diverged:
            return np.zeros(self._training.chunk_size), Scores(training=0.0, validation=0.0), True
        scores = Scores(training=chunk.training_score, validation=chunk.validation_score)
        return np.array(chunk.losses), scores, self._chunk >= self._child.chunks


gymnasium.register(
    "ReinforcedRegularization/SimulatedChild-v0",
    entry_point="trainer_service.environment:SimulatedChildEnvironment",
)
gymnasium.register(
    "ReinforcedRegularization/ChildTraining-v0",
    entry_point="trainer_service.environment:ChildTrainingEnvironment",
)
