"""What a study chooses from results: constants of searches, and means and replays of policies.

Choices use validation scores only; nothing here reads a test score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer_service.study.entries import Grid, RandomSearch, Replayed
from trainer_service.study.results.results import Result

Values = Mapping[str, float]


def best_constant(entry: Grid | RandomSearch, tuning: Sequence[Result]) -> Values:
    """Return the constant with the best mean validation score of its children.

    Args:
        entry: the search.
        tuning: its children, at least one. A child's score is that of its best epoch.
    """
    scores: dict[float, list[float]] = {}
    for result in sorted(tuning, key=lambda result: result.key):
        value = result.spec.training.values[entry.chosen.strength.name]
        scores.setdefault(value, []).append(result.finished.scores.validation_score_best)
    best = max(scores, key=lambda value: float(np.mean(scores[value])))
    return {entry.chosen.strength.name: best}


def mean_values(judged: Sequence[Result]) -> Values:
    """Return the mean of all values that judged runs of a method trained under, by hyperparameter.

    Each run counts alike, whatever its length; `judged` has at least one with a chunk.
    """
    traces = [r.trace.values for r in sorted(judged, key=lambda r: r.key) if r.trace.training_loss]
    return {name: float(np.mean([np.mean(trace[name]) for trace in traces])) for name in traces[0]}


def replayed_values(entry: Replayed, judged: Sequence[Result], *, seed: int) -> list[Values]:
    """Return what the chunks of seed `seed` run under: the values of the next seed's judged run.

    Args:
        entry: whether they are shuffled, as drawn by the seed.
        judged: of the method that is replayed: at least two runs, with at least one chunk each.
        seed: of the child; its own run is never the one that is replayed.
    """
    by_seed = {result.key.index: result.trace.values for result in judged}
    seeds = sorted(by_seed)
    source = by_seed[seeds[(seeds.index(seed) + 1) % len(seeds)]]
    chunks = [dict(zip(source, row, strict=True)) for row in zip(*source.values(), strict=True)]
    if entry.shuffled:
        order = np.random.default_rng(seed).permutation(len(chunks))
        return [chunks[place] for place in order]
    return list(chunks)
