"""The distribution of problems that a policy is learned on, as a TOML file says it, and draws."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.text import read_text
from trainer_service.training.child.models import Model
from trainer_service.training.regularizers.registry import steerable

T = TypeVar("T")


class WrongProblems(AgentError):
    """An invalid problems file; the message names file and field."""


def _ascending(range_: tuple[float, float]) -> tuple[float, float]:
    if not 0 < range_[0] <= range_[1]:
        raise ValueError(f"{list(range_)} must be two numbers above 0, the smaller one first")
    return range_


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""Least and most, drawn from log-uniformly: `[80, 1600]`."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataTable(_Table):
    """Images that problems are drawn from."""

    weight: float = Field(1.0, gt=0)
    """How often it is drawn, relative to the others."""
    dataset: str
    """A data set of the trainer, or `prototypes`: see `pretraining.data`."""
    without: tuple[str, ...] = ()
    """Classes that are never drawn, by name: those that a policy is to be judged on."""
    sizes: tuple[Annotated[int, Field(ge=8, le=64)], ...] = (8, 12, 16, 24)
    """Pixels each way."""
    grey: float = Field(0.5, ge=0, le=1)
    """Share of problems whose images lose their colours."""


class ModelTable(_Table):
    """Networks that problems are drawn with."""

    weight: float = Field(1.0, gt=0)
    model: Model
    width: Range = (1.0, 1.0)
    depth: tuple[int, ...] = ()
    """Of `mlp` and `cnn`; empty for other models."""
    largest: int = 64
    """Pixels each way of its images at the most."""


class Learning(_Table):
    """How the policy learns; names and meaning are stable-baselines3's where it has them."""

    children: int = Field(20_000, ge=1)
    """That are trained in all."""
    stacks: int = Field(12, ge=1)
    """That one update learns from."""
    learning_rate: float = Field(1e-3, gt=0)
    """At first; it falls in a straight line to 15% of that."""
    gamma: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    clip_range: float = Field(0.2, gt=0)
    n_epochs: int = Field(6, ge=1)
    batch_size: int = Field(512, ge=2)
    target_kl: float = Field(0.03, gt=0)
    ent_coef: float = Field(0.002, ge=0)
    deviation: float = Field(0.3, gt=0)
    """Of exploration at first, about, in the policy's [-1, 1]."""
    is_relative: bool = True
    """Whether a child's reward is taken relative to its twins'."""
    blind_to: tuple[Literal["problem", "plan", "losses", "scores"], ...] = ()
    """Parts of what is observed that are hidden, to see what they are worth."""
    start: float = 0.25
    """The value that an untrained policy sets, in the regularizer's own unit."""


class Problems(_Table):
    """What is drawn for each stack of children, and for each of its problems."""

    regularizer: str = "dropout"
    twins: int = Field(4, ge=2)
    """Children that share a problem, initial weights, data order and noise."""
    groups: int = Field(4, ge=1)
    """Problems in a stack: of different data, of one network, batch size and length."""
    chunk_size: int = Field(20, ge=1)
    chunks: Range = (8, 48)
    classes: Range = (2, 20)
    training_size: Range = (80, 1600)
    learning_rate: Range = (5e-4, 8e-3)
    batch_size: tuple[Annotated[int, Field(ge=2)], ...] = (16, 32)
    clean: float = Field(0.5, ge=0, le=1)
    """Share of problems without wrong labels."""
    label_noise: Range = (0.1, 0.6)
    """Share of wrong labels in the others, drawn uniformly."""
    wrong_validation: float = Field(0.5, ge=0, le=1)
    """Share of those whose validation labels are as wrong."""
    few_sites: float = Field(0.3, ge=0, le=1)
    """Share of stacks that are regularized in front of the classifier alone."""
    unknown: float = Field(0.15, ge=0, le=1)
    """Share of problems, for each of the six descriptors and the plan, that do not tell it."""
    data: tuple[DataTable, ...] = Field(min_length=1)
    models: tuple[ModelTable, ...] = Field(min_length=1)
    learning: Learning = Learning()


def read_problems(name: str) -> Problems:
    """Return the distribution of a TOML file, or of a shipped policy by its name.

    Raises:
        WrongProblems: it is neither, or a field is unknown or wrong.
    """
    path, shipped = Path(name), _SHIPPED / f"{name}.toml"
    is_shipped = not path.exists() and name in shipped_names()
    try:
        text = shipped.read_text("utf-8") if is_shipped else read_text(path)
        problems = Problems.model_validate(tomllib.loads(text))
        steerable(problems.regularizer)
    except OSError as error:
        raise WrongProblems(
            f"{name}: {error.strerror or error}; give a file, or one of "
            f"{', '.join(shipped_names())}"
        ) from None
    except (InvalidArgument, tomllib.TOMLDecodeError) as error:
        raise WrongProblems(f"{name}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise WrongProblems(f"{name}: {field}: {first['msg'].lower()}") from None
    return problems


_SHIPPED = resources.files("trainer_service.pretraining") / "presets"


def shipped_names() -> list[str]:
    """Return the names of the policies whose distributions come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _SHIPPED.iterdir())


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemDraw:
    """One problem of a stack."""

    source: int
    """The data table's place."""
    training_size: int
    label_noise: float
    is_validation_wrong: bool
    hidden: frozenset[str]
    """Descriptors that its runs do not tell, `planned_chunks` among them."""
    seed: int
    """Of its data, initial weights, order and noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackDraw:
    """A stack of problems."""

    model: Model
    width: float
    depth: int | None
    size: int
    """Pixels each way."""
    is_grey: bool
    classes: int
    batch_size: int
    learning_rate: float
    chunks: int
    sites: Literal["all", "classifier"]
    problems: tuple[ProblemDraw, ...]


DESCRIPTORS = (
    "classes",
    "training_samples",
    "batch_size",
    "learning_rate",
    "parameters",
    "sites",
    "planned_chunks",
)


def draw_stack(problems: Problems, *, seed: int, groups: int | None = None) -> StackDraw:
    """Return the stack of a seed: the same one, whenever it is drawn."""
    rng = np.random.default_rng([seed, 7])
    one_of = _weighted(rng, problems.models)
    sources = [_weighted_place(rng, problems.data) for _ in range(groups or problems.groups)]
    smallest = min(max(problems.data[s].sizes) for s in sources)
    sizes = [s for s in problems.data[sources[0]].sizes if s <= min(one_of.largest, smallest)]
    greys = [problems.data[s].grey for s in sources]
    draw = StackDraw(
        model=one_of.model,
        width=_log_uniform(rng, one_of.width),
        depth=int(rng.choice(one_of.depth)) if one_of.depth else None,
        size=int(rng.choice(sizes or [min(problems.data[sources[0]].sizes)])),
        is_grey=bool(rng.random() < float(np.mean(greys))),
        classes=round(_log_uniform(rng, problems.classes)),
        batch_size=int(rng.choice(problems.batch_size)),
        learning_rate=_log_uniform(rng, problems.learning_rate),
        chunks=round(_log_uniform(rng, problems.chunks)),
        sites="classifier" if rng.random() < problems.few_sites else "all",
        problems=(),
    )
    return StackDraw(
        **{name: getattr(draw, name) for name in draw.__slots__ if name != "problems"},
        problems=tuple(_problem(rng, problems, source) for source in sources),
    )


def _problem(rng: np.random.Generator, problems: Problems, source: int) -> ProblemDraw:
    is_clean = rng.random() < problems.clean
    noise = float(rng.uniform(*problems.label_noise))
    hidden = [name for name in DESCRIPTORS if rng.random() < problems.unknown]
    return ProblemDraw(
        source=source,
        training_size=round(_log_uniform(rng, problems.training_size)),
        label_noise=0.0 if is_clean else noise,
        is_validation_wrong=bool(rng.random() < problems.wrong_validation),
        hidden=frozenset(hidden),
        seed=int(rng.integers(2**31)),
    )


def _log_uniform(rng: np.random.Generator, range_: tuple[float, float]) -> float:
    low, high = range_
    return float(low * math.exp(rng.random() * math.log(high / low)))


def _weighted_place(rng: np.random.Generator, tables: Sequence[DataTable | ModelTable]) -> int:
    weights = np.array([table.weight for table in tables])
    return int(rng.choice(len(tables), p=weights / weights.sum()))


def _weighted(rng: np.random.Generator, tables: Sequence[ModelTable]) -> ModelTable:
    return tables[_weighted_place(rng, tables)]
