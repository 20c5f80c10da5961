"""Gymnasium's vectorized environment of problems.

gymnasium.make_vec(
    "trainer_service.pretraining.environment:ReinforcedRegularization/Problems-v0",
    num_envs=16, problems="problems.toml", data="data",
)
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from agent_service.controllers import universal
from agent_service.domain.errors import invalid
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Scores
from trainer_service.pretraining.distribution import Learning, Problems, draw_stack, read_problems
from trainer_service.pretraining.stack import ProblemStack, StackChunk
from trainer_service.training.regularizers.registry import steerable

Array = npt.NDArray[Any]
SCALE = 10.0
"""Rewards are gains of a score in [0, 1], times this."""
LARGEST_LOSS = 1e6
"""Stands for the losses of a child that diverged."""


def hidden_places(learning: Learning) -> list[int]:
    """Return the places of an observation that a policy is blind to."""
    return [place for part in learning.blind_to for place in universal.PARTS[part]]


class ProblemsEnvironment(VectorEnv[Array, Array, Array]):
    """A stack of problems with their twins: each environment is one run of one child.

    - Observation: the universal one, float32[35]: see `agent_service.controllers.universal`.
    - Action: float32[1] in [-1, 1], clipped: the value's place in the regularizer's range.
    - Reward: what the chunk gained of half the test score and half the test score where validation
      was best so far, times 10, less the mean of its twins. Test labels are never wrong.
    - All environments end together, terminated, and the next step begins another stack.
    - info: `value`, `test_score`, `best_test_score`, `validation_score`, each float64[num_envs].

    Environments of a problem stand side by side. A seed given to `reset` determines all that
    follows.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as gymnasium declares it

    def __init__(
        self,
        num_envs: int = 16,
        *,
        problems: Problems | str | PathLike[str],
        data: str | PathLike[str] = "data",
        is_relative: bool | None = None,
    ) -> None:
        """Read the distribution.

        Args:
            num_envs: a multiple of its twins.
            problems: it, or its file, or the name of a shipped policy.
            data: the data folder.
            is_relative: whether the mean of twins is taken off rewards; None is as the file says.

        Raises:
            WrongProblems: the file is invalid.
            InvalidArgument: `num_envs` is no multiple of the twins.
        """
        found = problems if isinstance(problems, Problems) else read_problems(str(problems))
        if num_envs % found.twins:
            raise invalid("num_envs", f"{num_envs} is no multiple of {found.twins} twins")
        self.num_envs = num_envs
        self._problems, self._data = found, Path(data)
        its = found.learning
        self._is_relative = its.is_relative if is_relative is None else is_relative
        self._hidden = hidden_places(its)
        self.hyperparameter = steerable(found.regularizer).strength
        seen = universal.LIMIT
        size = universal.size(1)
        self.single_observation_space = spaces.Box(-seen, seen, (size,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Box(-seen, seen, (num_envs, size), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (num_envs, 1), np.float32)
        self._seed = 0
        self._is_over = True

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Draw another stack and return what is observed of it; `options` has no effect."""
        if isinstance(seed, list):
            seed = seed[0]
        self._seed = self._seed + 1 if seed is None else seed
        twins = self._problems.twins
        draw = draw_stack(self._problems, seed=self._seed, groups=self.num_envs // twins)
        self._stack = ProblemStack(draw, self._problems, self._data)
        told = zip(self._stack.problems, self._stack.planned_chunks, strict=True)
        self._settings = [self._setting(*its) for its in told for _ in range(twins)]
        self._seen = [universal.first(setting) for setting in self._settings]
        self._chunk = 0
        self._best_validation = np.full(self.num_envs, -1.0)
        self._best_test = np.zeros(self.num_envs)
        self._test = np.zeros(self.num_envs)
        self._is_over = False
        return self._observation(), {}

    def _setting(self, problem: Problem, planned: int | None) -> universal.Setting:
        return universal.Setting(
            problem=problem,
            planned_chunks=planned,
            chunk_size=self._problems.chunk_size,
            hyperparameters=1,
        )

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Train the next chunk of each child under its action."""
        no_ends = np.zeros(self.num_envs, np.bool_)
        if self._is_over:
            observation, info = self.reset()
            return observation, np.zeros(self.num_envs), no_ends, no_ends, info
        values = [self.hyperparameter.value(float(action)) for action in np.ravel(actions)]
        chunk = self._stack.train_chunk(values)
        self._chunk += 1
        self._observe(chunk, values)
        rewards = SCALE * self._gains(chunk)
        if self._is_relative:
            by_problem = rewards.reshape(-1, self._problems.twins)
            rewards = (by_problem - by_problem.mean(1, keepdims=True)).ravel()
        self._is_over = self._stack.is_over
        info = {
            "value": np.array(values),
            "test_score": self._test,
            "best_test_score": self._best_test,
            "validation_score": chunk.validation,
        }
        ends = np.full(self.num_envs, self._is_over)
        return self._observation(), rewards, ends, no_ends, info

    def _observe(self, chunk: StackChunk, values: list[float]) -> None:
        losses = np.nan_to_num(chunk.losses, nan=LARGEST_LOSS, posinf=LARGEST_LOSS)
        for place, setting in enumerate(self._settings):
            report = universal.Report(
                chunk=self._chunk,
                losses=losses[place].tolist(),
                scores=Scores(
                    training=float(chunk.training[place]), validation=float(chunk.validation[place])
                ),
                places=[round(self.hyperparameter.unit(values[place]), 12)],
            )
            self._seen[place] = universal.following(setting, self._seen[place], report)

    def _gains(self, chunk: StackChunk) -> npt.NDArray[np.float64]:
        """Return what the chunk gained; all gains of a run add up to half of both final scores."""
        is_best = chunk.validation > self._best_validation
        best = np.where(is_best, chunk.test, self._best_test)
        gains = 0.5 * (chunk.test - self._test) + 0.5 * (best - self._best_test)
        self._best_validation = np.where(is_best, chunk.validation, self._best_validation)
        self._best_test, self._test = best, chunk.test
        result: npt.NDArray[np.float64] = gains
        return result

    def _observation(self) -> Array:
        observation = np.stack(self._seen).astype(np.float32)
        observation[:, self._hidden] = 0.0
        return observation


gymnasium.register(
    "ReinforcedRegularization/Problems-v0",
    vector_entry_point="trainer_service.pretraining.environment:ProblemsEnvironment",
)
