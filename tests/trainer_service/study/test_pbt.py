"""Population based training: selection, perturbation, and real populations."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.domain.errors import FailedPrecondition, InvalidArgument
from tests.given import ServedTrainer
from tests.trainer_service.specs import CHILD
from trainer_service.client import TrainerClient
from trainer_service.runs.run import Event, RunSpec
from trainer_service.study.pbt import (
    FACTORS,
    Population,
    PopulationFailed,
    Trained,
    exploit,
    explore,
    first_members,
    next_members,
    rank,
    round_score,
    train_population,
)
from trainer_service.training.child_file import load_child
from trainer_service.training.spec import Method, Sites, hyperparameters

SCORES = st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=12).filter(
    lambda scores: scores.count(None) < len(scores)
)
SEEDS = st.integers(0, 2**32)
TRAINING = replace(CHILD, method=Method.D, sites=Sites.EACH, seed=5)
POPULATION = Population(study="s", training=TRAINING, members=4, rounds=3, chunks=2)


@given(SCORES)
def test_ranks_are_by_score(scores: list[float | None]) -> None:
    """Each place once, the best first, those without a score last."""
    ranked = [scores[place] for place in rank(scores)]
    known = [score for score in ranked if score is not None]

    assert sorted(rank(scores)) == list(range(len(scores)))
    assert known == sorted(known, reverse=True)
    assert ranked[: len(known)] == known


@given(SCORES, SEEDS)
def test_the_lower_quarter_copies_the_upper(scores: list[float | None], seed: int) -> None:
    """Other members with a score continue alone; no member copies a worse or diverged one."""
    sources = exploit(scores, np.random.default_rng(seed))
    count = max(1, len(scores) // 4)
    ranked = rank(scores)

    for place, source in enumerate(sources):
        copies = place in ranked[-count:] or scores[place] is None
        assert source in (ranked[:count] if copies else [place])
        assert scores[source] is not None
    # The best never copies another, so what it found is not lost.
    assert sources[ranked[0]] == ranked[0]


@given(st.data(), st.sampled_from([Method.D, Method.NI]), SEEDS)
def test_values_are_perturbed_within_their_ranges(
    data: st.DataObject, method: Method, seed: int
) -> None:
    """Each by one of the factors, or to the bound that this goes over."""
    ranges = hyperparameters(replace(TRAINING, method=method))
    values = {h.name: data.draw(st.floats(h.low, h.high)) for h in ranges}
    explored = explore(values, ranges, np.random.default_rng(seed))

    assert explored.keys() == values.keys()
    for h in ranges:
        allowed = [min(max(values[h.name] * factor, h.low), h.high) for factor in FACTORS]
        assert explored[h.name] in allowed


def test_a_round_is_judged_by_its_second_half() -> None:
    """The middle chunk included, so that a single chunk is all."""
    assert round_score([0.5]) == 0.5
    assert round_score([0.0, 0.5]) == 0.5
    assert round_score([0.0, 0.5, 1.0]) == 0.75


def test_members_differ_and_are_the_same_again() -> None:
    """By seed and values in the first round; copies take weights, seed and perturbed values."""
    first = first_members(POPULATION)
    trained = [
        Trained(member=member, score=score, validation_score_best=0.5)
        for member, score in zip(first, [0.4, 0.9, None, 0.6], strict=True)
    ]
    second = next_members(POPULATION, trained, 2)

    assert first == first_members(POPULATION)
    assert second == next_members(POPULATION, trained, 2)
    assert [member.seed for member in first] == [5, 6, 7, 8]
    assert len({tuple(member.values.items()) for member in first}) == 4
    assert [member.parent for member in second] == [first[i].run_id for i in (0, 1, 1, 3)]
    assert [member.seed for member in second] == [5, 6, 6, 8]
    kept = [member.values == first[i].values for i, member in enumerate(second)]
    assert kept == [True, True, False, True]
    with pytest.raises(PopulationFailed, match="s-pbt-0-m1-r1"):
        next_members(POPULATION, [replace(one, score=None) for one in trained], 2)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"training": replace(CHILD, method=Method.RD)}, "training.method"),
        ({"members": 1}, "members"),
        ({"rounds": 0}, "rounds"),
        ({"chunks": 0}, "chunks"),
        ({"seed": -1}, "seed"),
        ({"study": "no spaces"}, "study"),
        ({"study": "x" * 120}, "study"),
    ],
)
def test_a_wrong_population_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    """Before anything is submitted."""
    with pytest.raises(InvalidArgument) as raised:
        replace(POPULATION, **changes)  # type: ignore[arg-type]

    assert [v.field for v in raised.value.violations] == [field]


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


class Interrupting:
    """A trainer service whose caller is interrupted at the n-th call, and once more after it."""

    def __init__(self, client: TrainerClient, calls: int) -> None:
        self._client = client
        self._calls = calls

    def _call(self) -> None:
        self._calls -= 1
        if self._calls < 0:
            raise Interrupted

    def submit(self, run_id: str, spec: RunSpec) -> object:
        self._call()
        return self._client.submit(run_id, spec)

    def watch(self, run_id: str) -> Iterator[Event]:
        self._call()
        return self._client.watch(run_id)

    def discard(self, run_id: str) -> object:
        self._call()
        return self._client.discard(run_id)


def test_a_population_goes_on_wherever_it_was_interrupted(tmp_path: Path) -> None:
    """The same runs, no more; the result's child is there, and all other checkpoints are gone."""
    training = replace(CHILD, method=Method.NI, chunks=None, epochs=7)
    population = Population(study="faces", training=training, members=3, rounds=2, chunks=1)
    with (
        ServedTrainer(tmp_path) as process,
        TrainerClient(process.address, budget_seconds=60) as client,
    ):
        # As runs are submitted, watched and discarded; each waits for all that the one before left.
        for calls in (1, 4, 8, 12, 15):
            with suppress(Interrupted):
                train_population(population, Interrupting(client, calls))
        result = train_population(population, client)
        again = train_population(population, client)
        runs = {run.run_id: run for run in client.list()}
        child = load_child(client.weights(result.run_id))
        for run_id in runs.keys() - {result.run_id}:
            with pytest.raises(FailedPrecondition, match="discarded"):
                client.weights(run_id)

    first, second = result.rounds
    ranked = rank([one.score for one in first])
    assert again == result
    assert runs.keys() == {f"faces-pbt-0-m{m}-r{r}" for m in (1, 2, 3) for r in (1, 2)}
    assert [runs[one.member.run_id].trained_chunks for one in second] == [2, 2, 2]
    assert second[ranked[2]].member.parent == first[ranked[0]].member.run_id
    assert second[ranked[2]].member.values != first[ranked[0]].member.values
    assert [second[i].member.parent for i in ranked[:2]] == [
        first[i].member.run_id for i in ranked[:2]
    ]
    best = max(second, key=lambda one: one.validation_score_best)
    assert result.run_id == best.member.run_id
    assert child.manifest.validation_score == best.validation_score_best
    assert child.manifest.training.values == dict(best.member.values)
