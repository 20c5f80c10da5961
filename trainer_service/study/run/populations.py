"""Populations as a method of a study: each seed has one, of which the best member is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from trainer_service.run import ChunkTrained, Event, Finished
from trainer_service.study import pbt
from trainer_service.study.entries import Population
from trainer_service.study.results.results import Key, Phase, Result
from trainer_service.study.run.children import Children, StudyPlace
from trainer_service.study.spec import TUNING_SEEDS, StudySpec


class Populations:
    """The populations of one method."""

    def __init__(self, study: str, spec: StudySpec, entry: Population, children: Children) -> None:
        """Take what decides them; `children` are trained with."""
        self._study = study
        self._spec = spec
        self._entry = entry
        self._children = children

    def train(self, seeds: Sequence[int]) -> list[Result]:
        """Train the populations of seeds, at once; return the judged results, in order."""
        keys = [Key(method=self._entry.name, phase=Phase.JUDGED, index=seed) for seed in seeds]
        missing = [key for key in keys if not self._children.finished([key])]
        self._children.each(self._train_one, missing)
        return self._children.finished(keys)

    def population(self, seed: int, attempt: str) -> pbt.Population:
        """Return what decides the population of a seed.

        Its members are children that nobody is judged on: their seeds are among those of tuning.
        """
        chunks = self._spec.training.chunks
        assert chunks is not None
        first = TUNING_SEEDS + seed * self._entry.members
        training = replace(self._spec.training, method=self._entry.chosen.fixed.lower(), seed=first)
        return pbt.Population(
            study=f"{self._study}-{self._entry.name}{attempt}",
            training=training,
            members=self._entry.members,
            rounds=chunks // self._entry.round_chunks,
            chunks=self._entry.round_chunks,
            seed=seed,
        )

    def _train_one(self, key: Key, place: StudyPlace) -> None:
        number = 1
        population = self.population(key.index, "")
        # What was cancelled stays so: the whole begins again under other ids.
        while any(place.was_lost(run_id) for run_id in _run_ids(population)):
            number += 1
            population = self.population(key.index, f"-try{number}")
        chunks: dict[str, list[ChunkTrained]] = defaultdict(list)
        ends: dict[str, Finished] = {}

        def happened(run_id: str, event: Event) -> None:
            match event.what:
                case ChunkTrained() as trained:
                    chunks[run_id].append(trained)
                    place.trained(key, trained, planned=population.rounds * population.chunks)
                case Finished() as finished:
                    ends[run_id] = finished

        made = pbt.train_population(population, place, happened=happened)
        self._keep(key, population, made, chunks, ends, place)

    def _keep(
        self,
        key: Key,
        population: pbt.Population,
        made: pbt.PopulationResult,
        chunks: dict[str, list[ChunkTrained]],
        ends: dict[str, Finished],
        place: StudyPlace,
    ) -> None:
        """Keep the members' results, the judged one last: with it the population is finished."""
        parents = {t.member.run_id: t.member.parent for round_ in made.rounds for t in round_}
        last = sorted(made.rounds[-1], key=lambda t: t.member.run_id == made.run_id)
        others = range(key.index * (len(last) - 1), (key.index + 1) * (len(last) - 1))
        keys = [Key(method=key.method, phase=Phase.TUNING, index=i) for i in others]
        if key.index == 0:
            self._children.add_weights(key.method, place.weights(made.run_id))
        place.discard(made.run_id)
        for own, trained in zip([*keys, key], last, strict=True):
            run_id = trained.member.run_id
            lineage = _lineage(run_id, parents)
            self._children.add(
                own,
                run_id,
                pbt.run_spec(population, trained.member, population.rounds),
                replace(ends[run_id], seconds=sum(ends[one].seconds for one in lineage)),
                [chunk for one in lineage for chunk in chunks[one]],
            )


def _run_ids(population: pbt.Population) -> list[str]:
    return [
        population.run_id(member, round_)
        for round_ in range(1, population.rounds + 1)
        for member in range(1, population.members + 1)
    ]


def _lineage(run_id: str, parents: dict[str, str]) -> list[str]:
    """Return a run and those that it goes on from, the first one first."""
    runs = [run_id]
    while parents[runs[0]]:
        runs.insert(0, parents[runs[0]])
    return runs
