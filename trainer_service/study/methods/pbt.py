"""Population based training; the best member of each seed's population is judged."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from agent_service.domain.errors import invalid
from trainer_service.runs.run import ChunkTrained, Event, Finished, RunSpec
from trainer_service.study.methods.choosing import Choosing
from trainer_service.study.methods.plan import TUNING_SEEDS, Key, Phase, Plan
from trainer_service.study.pbt import (
    Population,
    PopulationResult,
    run_spec,
    train_population,
)

if TYPE_CHECKING:
    from trainer_service.study.results.results import Result
    from trainer_service.study.run.children import StudyPlace
    from trainer_service.study.run.work import Work
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationBased(Choosing):
    """Population based training (Jaderberg et al. 2017): weights and values of the best go on."""

    kind: Literal["pbt"] = "pbt"
    members: int = 8
    """Children of each judged population, at least 2."""
    round_chunks: int = 5
    """Chunks between two selections."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        Choosing.__post_init__(self)
        for name, least in (("members", 2), ("round_chunks", 1)):
            if getattr(self, name) < least:
                raise invalid(name, f"{getattr(self, name)} must be at least {least}")

    def check(self, path: str, study: StudySpec) -> None:
        """Check that rounds divide the training evenly."""
        chunks = study.training.chunks
        if chunks is None or chunks % self.round_chunks:
            raise invalid(
                f"{path}round_chunks",
                f"{self.round_chunks} does not divide training.chunks, {chunks}",
            )

    def tuned_children(self, study: StudySpec) -> int:
        """Return the number of members that are not judged."""
        return study.seeds * (self.members - 1)

    def children_before(self, study: StudySpec, tuned: int) -> str:
        """Describe the populations."""
        return f"{self.members} for each seed"

    def planned(self, plan: Plan, result: Result) -> RunSpec | None:
        """Return None: values depend on the scores of all members in all rounds."""
        return None

    def judge(self, work: Work) -> list[Result]:
        """Train the populations of all seeds at once."""
        keys = [Key(method=self.name, phase=Phase.JUDGED, index=seed) for seed in work.seeds]
        missing = [key for key in keys if not work.children.finished([key])]
        work.children.each(partial(self._train_one, work), missing)
        return work.children.finished(keys)

    def population(self, plan: Plan, seed: int, attempt: str = "") -> Population:
        """Return the population of a seed.

        Members use tuning seeds, which no method is judged on.
        """
        chunks = plan.spec.training.chunks
        assert chunks is not None
        first = TUNING_SEEDS + seed * self.members
        training = replace(plan.spec.training, method=self.chosen.fixed.lower(), seed=first)
        return Population(
            study=f"{plan.id}-{self.name}{attempt}",
            training=training,
            members=self.members,
            rounds=chunks // self.round_chunks,
            chunks=self.round_chunks,
            seed=seed,
        )

    def _train_one(self, work: Work, key: Key, place: StudyPlace) -> None:
        number = 1
        population = self.population(work.plan, key.index)
        # Cancelled runs stay so: the whole population starts again under new ids.
        while any(place.was_lost(run_id) for run_id in _run_ids(population)):
            number += 1
            population = self.population(work.plan, key.index, f"-try{number}")
        chunks: dict[str, list[ChunkTrained]] = defaultdict(list)
        ends: dict[str, Finished] = {}

        def happened(run_id: str, event: Event) -> None:
            match event.what:
                case ChunkTrained() as trained:
                    chunks[run_id].append(trained)
                    place.trained(key, trained, planned=population.rounds * population.chunks)
                case Finished() as finished:
                    ends[run_id] = finished

        made = train_population(population, place, happened=happened)
        if key.index == 0:
            work.children.add_weights(key.method, place.weights(made.run_id))
        place.discard(made.run_id)
        _keep(work, key, population, made, chunks, ends)


def _keep(
    work: Work,
    key: Key,
    population: Population,
    made: PopulationResult,
    chunks: dict[str, list[ChunkTrained]],
    ends: dict[str, Finished],
) -> None:
    """Store the members' results, the judged one last, since it marks the population finished."""
    parents = {t.member.run_id: t.member.parent for round_ in made.rounds for t in round_}
    last = sorted(made.rounds[-1], key=lambda t: t.member.run_id == made.run_id)
    others = range(key.index * (len(last) - 1), (key.index + 1) * (len(last) - 1))
    keys = [Key(method=key.method, phase=Phase.TUNING, index=i) for i in others]
    for own, trained in zip([*keys, key], last, strict=True):
        run_id = trained.member.run_id
        lineage = _lineage(run_id, parents)
        work.children.add(
            own,
            run_id,
            run_spec(population, trained.member, population.rounds),
            replace(ends[run_id], seconds=sum(ends[one].seconds for one in lineage)),
            [chunk for one in lineage for chunk in chunks[one]],
        )


def _run_ids(population: Population) -> list[str]:
    return [
        population.run_id(member, round_)
        for round_ in range(1, population.rounds + 1)
        for member in range(1, population.members + 1)
    ]


def _lineage(run_id: str, parents: dict[str, str]) -> list[str]:
    """Return a run and its ancestors, the oldest first."""
    runs = [run_id]
    while parents[runs[0]]:
        runs.insert(0, parents[runs[0]])
    return runs
