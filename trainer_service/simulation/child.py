"""A simulated child: a closed-form model of under- and overfitting whose best policy is known.

For fast tests and load; a chunk takes microseconds. It imports no torch and no gRPC.

With progress tau = t / T in (0, 1] (chunk t of T) and the drop rate p as a share u = p / 0.9 of its
range, the expected scores of a chunk are

    training    MTF = fit(tau) - c (1 - b(tau)) u^2                  underfitting: capacity dropped
    validation  MVF = MTF      - c      b(tau)  (1 - u)^2            overfitting: the gap
    fit(tau) = 0.55 + 0.40 (1 - exp(-3 tau)) / (1 - exp(-3))         a learning curve
    b(tau)   = 0.10 + 0.80 tau                                       the pressure to overfit

The gap grows as training goes on, while the child needs its capacity less and less. Completing the
square, as the two weights add up to c = 0.5 at every tau:

    MVF = fit(tau) - c b(tau) (1 - b(tau)) - c (u - b(tau))^2

So u*(tau) = b(tau): the best rate rises from 0.1 to 0.9 of the range, and every other rate costs c
times its squared distance. **Why this policy is optimal:** an action affects only its own chunk,
and tau advances independently. The return is a sum of terms that each depend on one action, so the
best sum is the sum of the best terms, for any discount.

Chunk t's N losses are 0.3 + 2 exp(-2 tau) + 0.1 u + 0.1 e with e ~ N(0, 1): they fall with tau, are
slightly higher under a larger rate, and reveal tau to about 0.1. The scores carry uniform noise in
+-0.02, which keeps them in [0, 1] without clipping, so the closed forms are exact.

In a run of 40 chunks, the best constant rate gets 62% of the way from random rates to the optimum;
only a policy that adapts gets further.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

HIGHEST_RATE = 0.9
"""The drop rate lies in [0, HIGHEST_RATE]."""
COST = 0.5
"""c: score lost at a distance of the whole range from the best rate."""
LOSS_NOISE = 0.1
"""Standard deviation of one loss."""
SCORE_NOISE = 0.02
"""Largest deviation of a score from its expected value."""


class SimulatedChunk(NamedTuple):
    """Losses and scores of one simulated chunk."""

    losses: FloatArray
    """float64[N], in order."""
    training_score: float
    """MTF, in [0, 1]."""
    validation_score: float
    """MVF, in [0, 1]."""


class SimulatedChild:
    """One simulated training of `chunks` chunks; equal seeds and rates give equal chunks."""

    def __init__(self, *, chunks: int = 40, chunk_size: int = 20, seed: int = 0) -> None:
        """Start before the first of T chunks of N losses; seeds are at least 0.

        Raises:
            ValueError: `chunks` or `chunk_size` is below 1.
        """
        if chunks < 1 or chunk_size < 1:
            raise ValueError(f"chunks {chunks} and chunk_size {chunk_size} must be at least 1")
        self.chunks = chunks
        self.chunk_size = chunk_size
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Restart before the first chunk, with the noise of `seed`."""
        self._chunk = 0
        self._rng = np.random.default_rng(seed)

    @property
    def finished(self) -> bool:
        """Whether all chunks have been trained."""
        return self._chunk >= self.chunks

    def step(self, rate: float) -> SimulatedChunk:
        """Train the next chunk under the drop rate `rate`, in [0, 0.9].

        Raises:
            ValueError: the rate is out of range, or the run has ended.
        """
        if self.finished:
            raise ValueError(f"all {self.chunks} chunks are trained; reset first")
        share = _share(rate)
        self._chunk += 1
        tau = self._chunk / self.chunks
        level = 0.3 + 2.0 * np.exp(-2.0 * tau) + 0.1 * share
        losses = level + LOSS_NOISE * self._rng.standard_normal(self.chunk_size)
        noise = self._rng.uniform(-SCORE_NOISE, SCORE_NOISE, size=2)
        training = _fit(tau) - COST * (1.0 - _pressure(tau)) * share**2
        validation = training - COST * _pressure(tau) * (1.0 - share) ** 2
        return SimulatedChunk(losses, float(training + noise[0]), float(validation + noise[1]))

    def best_rate(self, tau: float) -> float:
        """Return p*(tau), the rate of the largest expected validation score at `tau` in [0, 1]."""
        return float(HIGHEST_RATE * _pressure(tau))

    def optimal_return(self) -> float:
        """Return the expected sum of a run's validation scores under best_rate(), the largest."""
        return self._return_at_distance(0.0)

    def best_constant_rate(self) -> float:
        """Return the best single rate for a whole run: the mean of the best rates."""
        return float(HIGHEST_RATE * _pressure(self._taus()).mean())

    def constant_return(self, rate: float) -> float:
        """Return the expected sum of a run's validation scores under one `rate` in [0, 0.9]."""
        return self._return_at_distance((_share(rate) - _pressure(self._taus())) ** 2)

    def random_return(self) -> float:
        """Return the expected sum of validation scores, rates drawn per chunk from U(0, 0.9)."""
        # E (u - b)^2 of a uniform share: its variance plus the squared distance of its mean.
        return self._return_at_distance(1.0 / 12.0 + (0.5 - _pressure(self._taus())) ** 2)

    def way_to_optimum(self, mean_return: float) -> float:
        """Return `mean_return` on a scale from random rates (0) to the optimum (1)."""
        floor = self.random_return()
        return (mean_return - floor) / (self.optimal_return() - floor)

    def _taus(self) -> FloatArray:
        return np.arange(1, self.chunks + 1) / self.chunks

    def _return_at_distance(self, squared_distance: FloatArray | float) -> float:
        """Return the expected sum of MVF for the squared distance (u - b)^2 at each chunk."""
        taus = self._taus()
        pressure = _pressure(taus)
        best = _fit(taus) - COST * pressure * (1.0 - pressure)
        return float((best - COST * squared_distance).sum())


def _fit(tau: FloatArray | float) -> FloatArray:
    return np.asarray(0.55 + 0.40 * (1.0 - np.exp(-3.0 * np.asarray(tau))) / (1.0 - np.exp(-3.0)))


def _pressure(tau: FloatArray | float) -> FloatArray:
    return np.asarray(0.10 + 0.80 * np.asarray(tau))


def _share(rate: float) -> float:
    """Return the rate as a share of its range; raises ValueError outside it."""
    if not 0.0 <= rate <= HIGHEST_RATE:
        raise ValueError(f"drop rate {rate} is not in [0, {HIGHEST_RATE}]")
    return rate / HIGHEST_RATE
