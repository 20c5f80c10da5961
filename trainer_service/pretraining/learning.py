"""Learning across problems: stacks are played, PPO learns from them, and all can be resumed."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agent_service.domain.errors import AgentError
from trainer_service.pretraining.distribution import Problems
from trainer_service.pretraining.environment import ProblemsEnvironment, hidden_places
from trainer_service.pretraining.policy import (
    FEATURE,
    HIDDEN,
    Episodes,
    new_policy,
    policy_bytes,
    update,
)
from trainer_service.training.regularizers.registry import steerable

CONSTANTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Shares of a regularizer's unit that the policy is compared with as it learns."""
STATE, PAGE_DATA = "learning.pt", "learning.json"
"""Files of the output folder: all that resuming needs, and the curves."""
_FIRST_COMPARED = 2**40
"""Seeds of the problems that the policy is compared on; those that it learns on lie below."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A stack to be played."""

    problems: Problems
    data: Path
    seed: int
    weights: dict[str, Any] | None = None
    """Of the policy; None where the values are constants."""
    constants: tuple[float, ...] = ()
    """One child of each problem under each."""
    is_exploring: bool = False


def play(job: Play) -> Episodes:
    """Train the children of a stack to their end."""
    torch.set_num_threads(1)
    children = len(job.constants) or (job.problems.twins if job.is_exploring else 1)
    problems = job.problems.model_copy(update={"twins": children})
    environment = ProblemsEnvironment(
        problems.groups * children,
        problems=problems,
        data=job.data,
        is_relative=None if job.is_exploring else False,
    )
    act = _constant(environment, job) if job.weights is None else _policy(job, environment.num_envs)
    observation, _info = environment.reset(seed=job.seed)
    steps: list[tuple[Any, ...]] = []
    is_over = False
    while not is_over:
        action, log_probability = act(observation)
        following, reward, ends, _cut, info = environment.step(action)
        steps.append((observation, action, log_probability, reward, info["value"]))
        if len(steps) == 1:
            best = info["validation_score"]
        best = np.maximum(best, info["validation_score"])
        observation, is_over = following, bool(ends.all())
    columns = [np.stack(column) for column in zip(*steps, strict=True)]
    return Episodes(
        observations=columns[0],
        actions=columns[1].astype(np.float32),
        log_probabilities=columns[2].astype(np.float32),
        rewards=columns[3].astype(np.float32),
        values=columns[4],
        last=info["test_score"],
        best=info["best_test_score"],
        validation=best,
    )


Act = Callable[[Any], tuple[Any, Any]]


def _constant(environment: ProblemsEnvironment, job: Play) -> Act:
    units = [environment.hyperparameter.unit(value) for value in job.constants]
    actions = np.tile(np.array(units, np.float32), job.problems.groups)[:, None]
    return lambda _observation: (actions, np.zeros(len(actions)))


def _policy(job: Play, children: int) -> Act:
    regularizer = steerable(job.problems.regularizer)
    model = new_policy(job.problems.learning, regularizer.strength, seed=0)
    model.policy.load_state_dict(job.weights or {})
    torch.manual_seed(job.seed)
    model.policy.reset_noise(children)

    def act(observation: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            actions, _values, log_probabilities = model.policy(
                torch.from_numpy(observation), deterministic=not job.is_exploring
            )
        return actions.numpy(), log_probabilities.numpy()

    return act


class Learner:
    """A policy that learns, in a folder."""

    def __init__(
        self, problems: Problems, *, data: Path, folder: Path, seed: int, compared: int
    ) -> None:
        """Go on from the folder's state, or begin.

        Args:
            problems: the distribution.
            data: the data folder.
            folder: for the state, the curves and the policy.
            seed: of all that is drawn.
            compared: stacks that the policy is compared with constants on.

        Raises:
            AgentError: the folder holds a policy of other problems or another seed.
        """
        self._problems, self._data, self._folder = problems, data, folder
        self._seed, self._compared = seed, compared
        strength = steerable(problems.regularizer).strength
        self._model = new_policy(problems.learning, strength, seed=seed)
        self.updates, self.children = 0, 0
        self.curves: list[dict[str, float]] = []
        self._constants: dict[str, list[list[float]]] | None = None
        self._asked = {"problems": problems.model_dump(mode="json"), "seed": seed}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            self._resume(torch.load(folder / STATE, weights_only=True))

    def _resume(self, state: dict[str, Any]) -> None:
        if json.loads(state["asked"]) != json.loads(json.dumps(self._asked)):
            raise AgentError(
                f"{self._folder} holds a policy of other problems or another seed; give another "
                "--output, or remove it"
            )
        self._model.policy.load_state_dict(state["policy"])
        self._model.policy.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.children = state["updates"], state["children"]
        self.curves = json.loads(state["curves"])
        self._constants = json.loads(state["constants"])

    @property
    def is_done(self) -> bool:
        """Whether all children are trained."""
        return self.children >= self._problems.learning.children

    def save(self) -> None:
        """Write the state, whole or not at all, and the curves beside it."""
        state = {
            "asked": json.dumps(self._asked),
            "policy": self._model.policy.state_dict(),
            "optimizer": self._model.policy.optimizer.state_dict(),
            "updates": self.updates,
            "children": self.children,
            "curves": json.dumps(self.curves),
            "constants": json.dumps(self._constants),
        }
        new = self._folder / f"{STATE}.new"
        torch.save(state, new)
        new.replace(self._folder / STATE)
        (self._folder / PAGE_DATA).write_text(json.dumps(self.curves, indent=1))

    def policy(self, name: str) -> bytes:
        """Return the policy's file."""
        return policy_bytes(
            self._model,
            regularizer=self._problems.regularizer,
            name=name,
            hidden=hidden_places(self._problems.learning),
        )

    def _weights(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self._model.policy.state_dict().items()}

    def step(self, player: Callable[[Iterable[Play]], Iterator[Episodes]]) -> dict[str, float]:
        """Play stacks, learn from them once and save; return the update's figures."""
        began, weights = time.monotonic(), self._weights()
        learning = self._problems.learning
        first = self._seed * 2**24 + self.updates * learning.stacks
        jobs = [
            Play(
                problems=self._problems,
                data=self._data,
                seed=first + place,
                weights=weights,
                is_exploring=True,
            )
            for place in range(learning.stacks)
        ]
        episodes = list(player(jobs))
        played = time.monotonic()
        left = max(0.0, 1.0 - self.children / learning.children)
        statistics = update(self._model, episodes, left=left, seed=first)
        self.updates += 1
        self.children += sum(e.rewards.shape[1] for e in episodes)
        values = np.concatenate([e.values.ravel() for e in episodes])
        figures = {
            "updates": self.updates,
            "children": self.children,
            "score": float(np.mean([0.5 * (e.last + e.best).mean() for e in episodes])),
            "value": float(values.mean()),
            "kl": statistics.get("approx_kl", math.nan),
            "std": FEATURE * math.sqrt(HIDDEN[-1]) * statistics.get("std", math.nan),
            "explained": statistics.get("explained_variance", math.nan),
            "seconds": played - began,
        }
        self.curves.append(figures)
        self.save()
        return figures

    def compare(self, player: Callable[[Iterable[Play]], Iterator[Episodes]]) -> dict[str, float]:
        """Compare the mean policy with constants on problems of the same distribution."""
        seeds = [_FIRST_COMPARED + place for place in range(self._compared)]
        if self._constants is None:
            high = steerable(self._problems.regularizer).strength.high
            constants = tuple(value for value in CONSTANTS if value <= high)
            jobs = [self._job(seed, constants=constants) for seed in seeds]
            found = [_by_constant(e, len(constants)) for e in player(jobs)]
            self._constants = {
                name: np.concatenate([f[name] for f in found]).tolist() for name in found[0]
            }
        weights = self._weights()
        episodes = list(player([self._job(seed, weights=weights) for seed in seeds]))
        figures = compared(
            np.concatenate([e.last for e in episodes]),
            np.concatenate([e.best for e in episodes]),
            {name: np.array(table) for name, table in self._constants.items()},
        )
        figures["value"] = float(np.mean([e.values.mean() for e in episodes]))
        figures["spread"] = float(np.std(np.concatenate([e.values.mean(0) for e in episodes])))
        if self.curves:
            self.curves[-1] |= {f"compared {name}": value for name, value in figures.items()}
            self.save()
        return figures

    def _job(self, seed: int, **how: Any) -> Play:
        return Play(problems=self._problems, data=self._data, seed=seed, **how)


def _by_constant(episodes: Episodes, constants: int) -> dict[str, Floats]:
    parts = {"last": episodes.last, "best": episodes.best, "validation": episodes.validation}
    return {name: scores.reshape(-1, constants) for name, scores in parts.items()}


def compared(last: Floats, best: Floats, constants: dict[str, Floats]) -> dict[str, float]:
    """Return mean differences to constants over problems, with half of their 95% intervals.

    Args:
        last: the policy's test scores at the end, float64[problems].
        best: at the best validation score.
        constants: the same of each constant, float64[problems, constants], and its `validation`.
    """
    figures = {}
    chosen = constants["validation"].argmax(1)
    rows = np.arange(len(chosen))
    for name, scores in (("last", last), ("best", best)):
        table = constants[name]
        default = table[:, table.mean(0).argmax()]
        for against, others in (("default", default), ("grid", table[rows, chosen])):
            differences = scores - others
            figures[f"{name} against {against}"] = float(differences.mean())
            error = differences.std(ddof=1) / math.sqrt(len(differences))
            figures[f"{name} against {against} +-"] = float(1.96 * error)
    return figures


@contextmanager
def players(processes: int) -> Iterator[Callable[[Iterable[Play]], Iterator[Episodes]]]:
    """Yield what plays stacks, in order, in so many processes; 1 is this one."""
    if processes == 1:
        yield lambda jobs: map(play, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_ignore_interrupts) as pool:
        yield lambda jobs: pool.imap(play, jobs)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches the whole group; who started the pool ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
