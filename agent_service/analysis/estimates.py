"""Off-policy estimates: the return that one policy would have had, from the runs of another.

Per-decision weighted importance sampling (Precup, Sutton and Singh 2000, "Eligibility traces for
off-policy policy evaluation"), each chunk's weights normalized on their own, which makes it
consistent (Thomas 2015, "Safe reinforcement learning", CWPDIS). Of run i, let rho be the target's
density of each logged sample over the density that the behaviour drew it with. The reward of chunk
t depends on the samples up to t only, so it is weighted by their product alone:

    w_i,t = rho_i,1 ... rho_i,t          V = sum_t gamma^(t-1) sum_i w_i,t R_i,t / sum_i w_i,t

It is not unbiased: its bias falls as one over the number of runs, and its variance is far below
that of the form that is. A run that has ended earns 0 from then on, and keeps its weight.

How much it can be trusted is told by the effective number of runs at each chunk (Kish 1965),
(sum_i w_i,t)^2 / sum_i w_i,t^2, which falls about geometrically with t. The interval takes the runs
as independent; those of a behaviour that learned from one another are only nearly so.

Neither sees a place where the target would go and no run has been. But the mean of the weights
does: it is 1 in expectation, and where runs are missing so is their weight.

**Support.** A target is covered only where the behaviour has a density above 0. Where it has none
for part of what the target would draw, the estimate is of the target that draws again until its
sample is covered; its densities are those of that restricted policy. How often the target itself
would draw outside is told beside it, as such samples would truly be clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_service.domain.errors import AgentError

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 1000
"""Bootstrap resamples of the runs."""
SEEN = 0.5
"""Mean weight below which too much of what the target would do is not in the runs."""
CONFIDENCE = 0.95
"""Probability that the interval is made for."""


class EstimateRefused(AgentError):
    """The log says too little about the target; the message tells what would help."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode:
    """What an estimate needs of one run, for each of its chunks."""

    rewards: FloatArray
    """float64[T], T at least 1."""
    log_ratios: FloatArray
    """float64[T]: log of the target's density of the sample less the behaviour's; -inf where the
    target never draws it."""
    log_covered: FloatArray
    """float64[T]: log of the probability that the target's own sample is one that the behaviour
    could have drawn; 0 where it could draw all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """The return of the target, and what it rests on."""

    value: float
    """NaN where no run has a weight."""
    low: float
    high: float
    """Percentile bootstrap interval over runs, for `CONFIDENCE`."""
    behaviour: float
    """The mean return of the runs themselves."""
    runs: int
    effective_runs: FloatArray
    """float64[H]: at each chunk of the horizon; from 0 to `runs`."""
    mean_weights: FloatArray
    """float64[H]: at each chunk; about 1 where the runs have been wherever the target would go."""
    returns: FloatArray
    """float64[H]: the value up to and with each chunk."""
    outside: float
    """Probability that the target draws at least one sample that the behaviour could not."""


def estimate_return(
    episodes: Sequence[Episode], *, gamma: float, horizon: int, seed: int
) -> Estimate:
    """Return the estimate of the target's return over the first `horizon` chunks.

    The same for every order of the episodes, to the bit.

    Args:
        episodes: at least one.
        gamma: discount a chunk, in [0, 1].
        horizon: H, chunks that count, at least 1.
        seed: of the bootstrap.
    """
    ordered = sorted(episodes, key=lambda e: (e.rewards.tolist(), e.log_ratios.tolist()))
    discounts = gamma ** np.arange(horizon)
    rewards = np.stack([_padded(e.rewards, horizon) for e in ordered]) * discounts
    log_weights = np.stack([_accumulated(e.log_ratios, horizon) for e in ordered])
    weights = _scaled(log_weights)
    returns = np.cumsum(_means(weights, rewards))
    low, high = _interval(weights, rewards, seed=seed)
    covered = np.exp([_accumulated(e.log_covered, horizon)[-1:] for e in ordered])
    return Estimate(
        value=float(returns[-1]),
        low=low,
        high=high,
        behaviour=float(rewards.mean(axis=0).sum()),
        runs=len(ordered),
        effective_runs=_effective(weights),
        mean_weights=_mean_weights(log_weights, weights),
        returns=returns,
        outside=1.0 - float(_means(weights[:, -1:], covered)[0]),
    )


def require_support(estimate: Estimate, *, min_effective: float, max_outside: float) -> None:
    """Check that the runs say enough about the target.

    Args:
        estimate: what to check.
        min_effective: smallest effective number of runs, at every chunk.
        max_outside: largest share of runs that leave what the behaviour covers.

    Raises:
        EstimateRefused: naming the chunk from which on they do not, and what would help.
    """
    low = np.flatnonzero(~(estimate.effective_runs >= min_effective))
    if low.size:
        chunk, smallest = int(low[0]) + 1, float(estimate.effective_runs.min())
        at = estimate.effective_runs[low[0]]
        fewer = f"a horizon of {chunk - 1} chunks, " if chunk > 1 else ""
        raise EstimateRefused(
            f"{at:.1f} effective runs of {estimate.runs} at chunk {chunk} (smallest {smallest:.1f})"
            f", below {min_effective:g}: take {fewer}more runs, or a behaviour nearer to the target"
        )
    unseen = np.flatnonzero(estimate.mean_weights < SEEN)
    if unseen.size:
        chunk = int(unseen[0]) + 1
        raise EstimateRefused(
            f"the mean weight at chunk {chunk} is {estimate.mean_weights[chunk - 1]:.2f}, far below"
            " 1: no run has been where the target would mostly go; take a behaviour that explores"
            " more widely"
        )
    if estimate.outside > max_outside:
        raise EstimateRefused(
            f"{estimate.outside:.1%} of the target's runs would be clipped at a bound, where the "
            f"behaviour never is; at most {max_outside:.1%}: take a shorter horizon, or a behaviour"
            " that samples as the target does"
        )


def _padded(rewards: FloatArray, horizon: int) -> FloatArray:
    """Return the first `horizon` rewards, 0 after the run's end."""
    padded: FloatArray = np.zeros(horizon)
    padded[: len(rewards)] = rewards[:horizon]
    return padded


def _accumulated(logs: FloatArray, horizon: int) -> FloatArray:
    """Return the running sums of the first `horizon` logs; after the run's end, the last one."""
    sums = np.cumsum(logs[:horizon])
    accumulated: FloatArray = np.full(horizon, sums[-1])
    accumulated[: len(sums)] = sums
    return accumulated


def _scaled(log_weights: FloatArray) -> FloatArray:
    """Return the weights [runs, H], each chunk's scaled so that its largest is 1; or all 0."""
    largest = log_weights.max(axis=0)
    weights: FloatArray = np.exp(log_weights - np.where(np.isneginf(largest), 0.0, largest))
    return weights


def _means(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Return the weighted mean of each column; NaN where all weights are 0."""
    total = weights.sum(axis=0)
    sums = (weights * values).sum(axis=0)
    means: FloatArray = np.full_like(total, np.nan)
    np.divide(sums, total, out=means, where=total > 0)
    return means


def _effective(weights: FloatArray) -> FloatArray:
    """Return Kish's effective number of runs at each chunk; 0 where all weights are 0."""
    squares = (weights**2).sum(axis=0)
    effective: FloatArray = np.zeros_like(squares)
    np.divide(weights.sum(axis=0) ** 2, squares, out=effective, where=squares > 0)
    return effective


def _mean_weights(log_weights: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the mean weight at each chunk; infinite where it is beyond a float64."""
    largest = log_weights.max(axis=0)
    with np.errstate(over="ignore"):
        means: FloatArray = weights.mean(axis=0) * np.exp(largest)
    return means


def _interval(weights: FloatArray, rewards: FloatArray, *, seed: int) -> tuple[float, float]:
    """Return the percentile interval over resampled runs; resamples without weight do not count."""
    rng = np.random.default_rng(seed)
    runs = len(weights)
    weighted = weights * rewards
    values = []
    for _ in range(RESAMPLES):
        times = rng.multinomial(runs, np.full(runs, 1.0 / runs)).astype(np.float64)
        total = times @ weights
        if (total > 0).all():
            values.append(float(((times @ weighted) / total).sum()))
    if not values:
        return np.nan, np.nan
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
