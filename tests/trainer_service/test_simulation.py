"""The simulated child: it follows its closed forms, and a constant rate is not enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.simulation.child import (
    HIGHEST_RATE,
    SCORE_NOISE,
    SimulatedChild,
    SimulatedChunk,
)

GRID = np.linspace(0.0, HIGHEST_RATE, 91)
RATES = st.floats(0.0, HIGHEST_RATE)


def chunk_at(t: int, rate: float, *, seed: int = 0) -> SimulatedChunk:
    """Return chunk t of 40 under `rate`; equal seeds give equal noise for all rates."""
    child = SimulatedChild(seed=seed)
    for _ in range(t - 1):
        child.step(0.0)
    return child.step(rate)


def run(child: SimulatedChild, rate: float | None) -> float:
    """Return a run's return under one rate, or under the best ones."""
    total = 0.0
    for t in range(1, child.chunks + 1):
        chosen = child.best_rate(t / child.chunks) if rate is None else rate
        total += child.step(chosen).validation_score
    return total


@pytest.mark.parametrize("t", [1, 13, 20, 40])
def test_the_best_rate_is_found_by_search(t: int) -> None:
    """Of all rates, best_rate() has the highest validation score at its time."""
    scores = [chunk_at(t, rate).validation_score for rate in GRID]

    assert GRID[np.argmax(scores)] == pytest.approx(SimulatedChild().best_rate(t / 40), abs=0.0051)


@given(t=st.integers(1, 40), rate=RATES, seed=st.integers(0, 99))
def test_scores_are_the_closed_forms_within_the_noise(t: int, rate: float, seed: int) -> None:
    """Each score is within SCORE_NOISE of its formula in the docstring, and in [0, 1]."""
    tau, u = t / 40, rate / HIGHEST_RATE
    pressure = 0.1 + 0.8 * tau
    fit = 0.55 + 0.4 * (1 - np.exp(-3 * tau)) / (1 - np.exp(-3))
    training = fit - 0.5 * (1 - pressure) * u**2
    validation = training - 0.5 * pressure * (1 - u) ** 2

    chunk = chunk_at(t, rate, seed=seed)

    assert chunk.training_score == pytest.approx(training, abs=SCORE_NOISE + 1e-9)
    assert chunk.validation_score == pytest.approx(validation, abs=SCORE_NOISE + 1e-9)
    assert 0 <= chunk.validation_score <= chunk.training_score + 2 * SCORE_NOISE
    assert chunk.training_score <= 1


def test_runs_return_what_the_closed_forms_say() -> None:
    """The mean return of 100 runs is constant_return(), and optimal_return() under best rates."""
    constant = np.mean([run(SimulatedChild(seed=s), 0.3) for s in range(100)])
    optimal = np.mean([run(SimulatedChild(seed=s), None) for s in range(100)])

    # Four standard errors: 0.02 / sqrt(3) a chunk, 40 chunks, 100 runs.
    assert constant == pytest.approx(SimulatedChild().constant_return(0.3), abs=0.03)
    assert optimal == pytest.approx(SimulatedChild().optimal_return(), abs=0.03)


def test_random_rates_return_the_mean_over_all_rates() -> None:
    """random_return() is constant_return() averaged over the range: chunks are independent."""
    middles = (np.arange(10_000) + 0.5) * HIGHEST_RATE / 10_000
    child = SimulatedChild()

    mean = np.mean([child.constant_return(float(rate)) for rate in middles])

    assert child.random_return() == pytest.approx(mean, abs=1e-6)


def test_the_best_constant_gets_less_than_ninety_percent_of_the_way() -> None:
    """On the way from random rates (0) to the optimum (1) it gets 62%, also found by search."""
    child = SimulatedChild()
    best = child.best_constant_rate()

    assert GRID[np.argmax([child.constant_return(rate) for rate in GRID])] == pytest.approx(
        best, abs=0.0051
    )
    assert child.way_to_optimum(child.constant_return(best)) == pytest.approx(0.62, abs=0.01)
    assert child.way_to_optimum(child.random_return()) == 0
    assert child.way_to_optimum(child.optimal_return()) == 1


def test_equal_seeds_give_equal_runs() -> None:
    """Seed and rates determine a run, also after a reset; another seed gives another run."""
    child = SimulatedChild(seed=3)
    first = [child.step(0.2) for _ in range(40)]
    child.reset(3)
    again = [child.step(0.2) for _ in range(40)]
    other = SimulatedChild(seed=4).step(0.2)

    for one, two in zip(first, again, strict=True):
        assert one[1:] == two[1:]
        np.testing.assert_array_equal(one.losses, two.losses)
    assert other.validation_score != first[0].validation_score


@pytest.mark.parametrize("rate", [-0.01, 0.91, float("nan")])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    """With a ValueError, and no chunk is counted; after the last one none follows."""
    child = SimulatedChild(chunks=1)

    with pytest.raises(ValueError, match="drop rate"):
        child.step(rate)

    assert not child.finished
    child.step(0.1)
    with pytest.raises(ValueError, match="reset"):
        child.step(0.1)
