"""Population based training (Jaderberg et al. 2017): values that change while a population trains.

After each round of chunks the members that do worst copy ones that do best, weights and all, and
perturb their values; the others go on. What comes of a round is a pure function of the seed, the
round and its scores, and each run's id of study, seed, member and round. So a population that
begins again after an interruption submits the same runs, gets those that exist, and continues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from agent_service.domain.errors import AgentError, invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.runs import RUN_ID
from trainer_service.runs.run import ChunkTrained, Event, Finished, RunSpec, RunState, StateChanged
from trainer_service.training.regularizers.registry import names_in_words
from trainer_service.training.spec import TrainingSpec, fixed_values, hyperparameters

FACTORS = (0.8, 1.2)
"""A copied value is multiplied by one of these, as in the paper."""
SHARE = 4
"""One in so many members copies, at least one; as many are copied from."""


class Trainer(Protocol):
    """One trainer service, as `TrainerClient` is; all runs of a population are at the same one."""

    def submit(self, run_id: str, spec: RunSpec) -> object:
        """Queue a run; the same again changes nothing."""
        ...

    def watch(self, run_id: str) -> Iterator[Event]:
        """Replay a run's events, and follow it to its end."""
        ...

    def discard(self, run_id: str) -> object:
        """Remove the checkpoint that a run kept; again is no error."""
        ...


class PopulationFailed(AgentError):
    """A run failed, or was cancelled, or all diverged; the message names it and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Specification of a population based training.

    Raises:
        InvalidArgument: naming the field that is wrong.
    """

    study: str
    """How the ids of its runs begin."""
    training: TrainingSpec
    """A member's, of method `d` or `ni`; its values and length are not used, its seed is the first
    member's, and each other has the next."""
    members: int = 8
    """At least 2."""
    rounds: int = 10
    """At least 1."""
    chunks: int = 4
    """Chunks of a round, at least 1."""
    seed: int = 0
    """Seed of the first values, of which members are copied, and of perturbations."""

    def __post_init__(self) -> None:
        """Check each field."""
        if not fixed_values(self.training):
            names = names_in_words(is_reinforced=False)
            text = f"{self.training.method} has no fixed value that could change; use {names}"
            raise invalid("training.method", text)
        for name, least in (("members", 2), ("rounds", 1), ("chunks", 1)):
            if getattr(self, name) < least:
                raise invalid(name, f"{getattr(self, name)} must be at least {least}")
        if not 0 <= self.seed < 2**63:
            raise invalid("seed", f"{self.seed} is not in [0, 2^63)")
        if not RUN_ID.fullmatch(longest := self.run_id(self.members, self.rounds)):
            text = f"makes the run id {longest!r}, which does not match {RUN_ID.pattern}"
            raise invalid("study", text)

    def run_id(self, member: int, round_: int) -> str:
        """Return the id of a member's run of a round; both count from 1."""
        return f"{self.study}-pbt-{self.seed}-m{member}-r{round_}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The training of one member of the population in one round."""

    run_id: str
    parent: str
    """The run that it goes on from; empty in the first round."""
    seed: int
    """Seed of the child, which is copied with the weights."""
    values: Mapping[str, float]
    """By hyperparameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A member at the end of its round."""

    member: Member
    score: float | None
    """Rank score: the mean validation score of the second half of the round's chunks
    (the middle one included). A single chunk's is of a few batches drawn at random, and those of
    the first half are of weights that are gone. None where it diverged."""
    validation_score_best: float
    """Validation score of its lineage's best epoch so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationResult:
    """Outcome of a population."""

    run_id: str
    """Run of the last round's member whose lineage has the best validation score of an epoch. Its
    checkpoint stays."""
    rounds: tuple[tuple[Trained, ...], ...]
    """All members of all rounds, in order."""


def train_population(
    population: Population,
    trainer: Trainer,
    *,
    happened: Callable[[str, Event], None] = lambda _run_id, _event: None,
) -> PopulationResult:
    """Train a population, or go on with it; choices use validation scores only.

    The checkpoints of a round are discarded once the next one has ended, at last all but the
    result's.

    Args:
        population: its specification.
        trainer: trains the runs; those of a round wait or train at once.
        happened: called with run id and event, again if the training continues.

    Raises:
        PopulationFailed: a run failed or was cancelled, or all of a round diverged.
        AgentError: the trainer refused a call.
    """
    rounds: list[tuple[Trained, ...]] = []
    members = first_members(population)
    for number in range(1, population.rounds + 1):
        for member in members:
            trainer.submit(member.run_id, run_spec(population, member, number))
        rounds.append(tuple(_watch(trainer, m, happened) for m in members))
        for old in rounds[-2] if number > 1 else ():
            trainer.discard(old.member.run_id)
        if number < population.rounds:
            members = next_members(population, rounds[-1], number + 1)
    best = max(_alive(rounds[-1]), key=lambda trained: trained.validation_score_best)
    for trained in rounds[-1]:
        if trained is not best:
            trainer.discard(trained.member.run_id)
    return PopulationResult(run_id=best.member.run_id, rounds=tuple(rounds))


def run_spec(population: Population, member: Member, round_: int) -> RunSpec:
    """Return what a member trains in a round, from 1; chunks count on from round to round."""
    training = replace(
        population.training,
        seed=member.seed,
        values=member.values,
        chunks=round_ * population.chunks,
        epochs=None,
    )
    return RunSpec(training=training, keep=True, parent=member.parent)


def _watch(trainer: Trainer, member: Member, happened: Callable[[str, Event], None]) -> Trained:
    """Follow a member's run to its end."""
    scores: list[float] = []
    finished: Finished | None = None
    for event in trainer.watch(member.run_id):
        happened(member.run_id, event)
        match event.what:
            case ChunkTrained(chunk=chunk):
                scores.append(chunk.validation_score)
            case Finished():
                finished = event.what
            case StateChanged(state=RunState.FAILED | RunState.CANCELLED as state, cause=cause):
                raise PopulationFailed(f"run {member.run_id}: {state} {cause}".rstrip())
    assert finished is not None, "what succeeded has a result"
    return Trained(
        member=member,
        score=None if finished.diverged else round_score(scores),
        validation_score_best=finished.scores.validation_score_best,
    )


def _alive(trained: Sequence[Trained]) -> list[Trained]:
    """Return those that did not diverge."""
    alive = [one for one in trained if one.score is not None]
    if not alive:
        names = ", ".join(one.member.run_id for one in trained)
        raise PopulationFailed(f"all of a round diverged: {names}; use a lower learning rate")
    return alive


def round_score(scores: Sequence[float]) -> float:
    """Return a member's rank score from the validation scores of a round's chunks, in order."""
    return float(np.mean(scores[len(scores) // 2 :]))


def first_members(population: Population) -> tuple[Member, ...]:
    """Return the members of the first round: values drawn uniformly from their ranges."""
    rng = _generator(population, 1)
    ranges = hyperparameters(population.training)
    return tuple(
        Member(
            run_id=population.run_id(number, 1),
            parent="",
            seed=population.training.seed + number - 1,
            values={h.name: float(rng.uniform(h.low, h.high)) for h in ranges},
        )
        for number in range(1, population.members + 1)
    )


def next_members(
    population: Population, trained: Sequence[Trained], round_: int
) -> tuple[Member, ...]:
    """Return the members of a round, after what came of the one before.

    Raises:
        PopulationFailed: all diverged.
    """
    _alive(trained)
    rng = _generator(population, round_)
    ranges = hyperparameters(population.training)
    members = []
    for number, source in enumerate(exploit([one.score for one in trained], rng), start=1):
        before = trained[source].member
        is_own = source == number - 1
        member = Member(
            run_id=population.run_id(number, round_),
            parent=before.run_id,
            seed=before.seed,
            values=before.values if is_own else explore(before.values, ranges, rng),
        )
        members.append(member)
    return tuple(members)


def _generator(population: Population, round_: int) -> np.random.Generator:
    return np.random.default_rng([population.seed, round_])


def rank(scores: Sequence[float | None]) -> list[int]:
    """Return places of scores, best first: of equal ones the first first, those of None last."""
    return sorted(
        range(len(scores)),
        key=lambda place: -math.inf if (score := scores[place]) is None else score,
        reverse=True,
    )


def exploit(scores: Sequence[float | None], rng: np.random.Generator) -> list[int]:
    """Return the place of the member that each goes on from: its own, or that of one it copies.

    The lower quarter, at least one, copies a random one of the upper quarter, of as many. Who
    diverged has nothing to go on from, so it copies, too, and is not copied.

    Args:
        scores: at least two, by place, None of who diverged; not all are None.
        rng: draws who is copied.
    """
    ranked = rank(scores)
    count = max(1, len(scores) // SHARE)
    upper = [place for place in ranked[:count] if scores[place] is not None]
    diverged = {place for place, score in enumerate(scores) if score is None}
    lower = {*ranked[-count:], *diverged}
    return [
        upper[int(rng.integers(len(upper)))] if place in lower else place
        for place in range(len(scores))
    ]


def explore(
    values: Mapping[str, float], ranges: Sequence[Hyperparameter], rng: np.random.Generator
) -> dict[str, float]:
    """Return values, each multiplied by one of FACTORS and clipped to its range."""
    return {
        h.name: float(np.clip(values[h.name] * rng.choice(FACTORS), h.low, h.high)) for h in ranges
    }
