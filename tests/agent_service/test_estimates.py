"""Off-policy estimates: right where the truth is known in closed form, else refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agent_service.analysis.estimates import (
    Episode,
    EstimateRefused,
    estimate_return,
    require_support,
)

CHUNKS, GAMMA = 4, 0.9
GAIN, DEVIATION = 0.5, 0.6


def episode(
    rewards: list[float], log_ratios: list[float], log_covered: list[float] | None = None
) -> Episode:
    covered = [0.0] * len(rewards) if log_covered is None else log_covered
    return Episode(
        rewards=np.array(rewards), log_ratios=np.array(log_ratios), log_covered=np.array(covered)
    )


def walks(rng: np.random.Generator, count: int) -> list[Episode]:
    """Return runs of a small Markov decision process under a behaviour, as the target sees them.

    The state is the action before, s_1 = 1. The behaviour draws a ~ N(0.3 s, 0.8), the target
    a ~ N(GAIN s, DEVIATION), and R = a^2.
    """
    state = np.ones(count)
    rewards, ratios = [], []
    for _ in range(CHUNKS):
        action = rng.normal(0.3 * state, 0.8)
        target = stats.norm.logpdf(action, GAIN * state, DEVIATION)
        ratios.append(target - stats.norm.logpdf(action, 0.3 * state, 0.8))
        rewards.append(action**2)
        state = action
    return list(map(episode, np.transpose(rewards).tolist(), np.transpose(ratios).tolist()))


def true_return() -> float:
    """E a_t^2 = GAIN^2 E a_(t-1)^2 + DEVIATION^2, with a_0^2 = 1, discounted and summed."""
    square, total = 1.0, 0.0
    for t in range(CHUNKS):
        square = GAIN**2 * square + DEVIATION**2
        total += GAMMA**t * square
    return total


def test_it_finds_the_return_that_is_known() -> None:
    """Over 60 seeds of 400 runs the mean error lies within four of its standard errors."""
    found = [
        estimate_return(walks(np.random.default_rng(s), 400), gamma=GAMMA, horizon=CHUNKS, seed=0)
        for s in range(60)
    ]
    errors = np.array([f.value for f in found]) - true_return()

    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(errors))
    assert errors.std() < 0.1
    # The behaviour's own return is another: there is something to correct.
    assert abs(np.mean([f.behaviour for f in found]) - true_return()) > 0.2
    # The interval holds the truth about as often as it says: 95%, of 60.
    assert sum(f.low <= true_return() <= f.high for f in found) >= 51


def test_more_runs_come_closer() -> None:
    """The error falls about as the root of the number of runs: it is consistent."""
    errors = {
        runs: np.mean(
            [
                abs(
                    estimate_return(
                        walks(np.random.default_rng([runs, s]), runs),
                        gamma=GAMMA,
                        horizon=CHUNKS,
                        seed=0,
                    ).value
                    - true_return()
                )
                for s in range(12)
            ]
        )
        for runs in (100, 1600)
    }

    assert errors[1600] < errors[100] / 2


def test_a_target_that_is_the_behaviour_has_its_mean_return() -> None:
    """All weights are 1: to the last bits the on-policy mean, and every run is effective."""
    rng = np.random.default_rng(0)
    rewards = rng.uniform(size=(50, CHUNKS))
    same = [episode(r, [0.0] * CHUNKS) for r in rewards.tolist()]

    found = estimate_return(same, gamma=GAMMA, horizon=CHUNKS, seed=0)

    expected = float((rewards * GAMMA ** np.arange(CHUNKS)).sum(axis=1).mean())
    assert found.value == pytest.approx(expected, rel=1e-14)
    assert found.value == pytest.approx(found.behaviour, rel=1e-14)
    assert found.effective_runs.tolist() == [50.0] * CHUNKS
    assert found.low < expected < found.high
    assert found.outside == 0


def test_a_run_that_ended_earns_nothing_more_and_keeps_its_weight() -> None:
    """By hand: of two runs, one ends after its first chunk."""
    ended, longer = episode([1.0], [math.log(3)]), episode([0.0, 2.0], [0.0, math.log(2)])

    found = estimate_return([ended, longer], gamma=0.5, horizon=2, seed=0)

    # Chunk 1: (3 x 1 + 1 x 0) / 4. Chunk 2: (3 x 0 + 2 x 2) / 5, discounted by 0.5.
    assert found.returns.tolist() == pytest.approx([0.75, 0.75 + 0.5 * 0.8])
    assert found.effective_runs.tolist() == pytest.approx([16 / 10, 25 / 13])


def test_the_horizon_cuts() -> None:
    """What comes later changes nothing, whatever it is."""
    short = [episode([1.0], [0.5]), episode([0.0], [0.1])]
    long = [episode([1.0, 9.0], [0.5, -3.0]), episode([0.0], [0.1])]

    values = [estimate_return(e, gamma=1, horizon=1, seed=0).value for e in (short, long)]

    assert values[0] == values[1]


logs = st.floats(-700, 700) | st.just(-math.inf)


@settings(max_examples=60, deadline=None)
@given(
    ratios=st.lists(st.lists(logs, min_size=3, max_size=3), min_size=1, max_size=8),
    data=st.data(),
)
def test_effective_runs_lie_between_none_and_all(
    ratios: list[list[float]], data: st.DataObject
) -> None:
    """0 only where all weights are 0, else from 1 to their number; the order changes no bit."""
    episodes = [episode([float(i), 1.0, -1.0], row) for i, row in enumerate(ratios)]
    order = data.draw(st.permutations(episodes))

    found = estimate_return(episodes, gamma=0.9, horizon=3, seed=1)
    again = estimate_return(order, gamma=0.9, horizon=3, seed=1)

    for chunk, size in enumerate(found.effective_runs):
        some = any(math.isfinite(sum(row[: chunk + 1])) for row in ratios)
        assert (1 - 1e-9 <= size <= len(ratios) * (1 + 1e-9)) if some else size == 0
    for name in ("value", "low", "high", "behaviour", "outside"):
        assert np.array_equal(getattr(found, name), getattr(again, name), equal_nan=True)


def test_equal_seeds_give_equal_intervals() -> None:
    """And other seeds give others, of nearly the same width."""
    episodes = walks(np.random.default_rng(0), 300)
    one, same, other = (
        estimate_return(episodes, gamma=GAMMA, horizon=CHUNKS, seed=seed) for seed in (1, 1, 2)
    )

    assert (one.low, one.high) == (same.low, same.high) != (other.low, other.high)
    assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.15)


def test_too_few_effective_runs_are_refused() -> None:
    """The message has their number, the chunk from which on they are too few, and what helps."""
    rng = np.random.default_rng(0)
    far = [episode([0.0] * 6, [0.0, *rng.normal(0, 2, 5)]) for _ in range(40)]
    found = estimate_return(far, gamma=1, horizon=6, seed=0)
    below = int(np.flatnonzero(found.effective_runs < 10)[0]) + 1

    with pytest.raises(EstimateRefused, match=rf"of 40 at chunk {below} .* {below - 1} chunks"):
        require_support(found, min_effective=10, max_outside=1)
    require_support(found, min_effective=1, max_outside=1)


def test_what_the_behaviour_never_draws_is_refused() -> None:
    """A target none of whose samples were drawn; and one that mostly leaves the range."""
    never = [episode([1.0], [-math.inf]) for _ in range(40)]
    with pytest.raises(EstimateRefused, match=r"0\.0 effective runs of 40 at chunk 1"):
        require_support(
            estimate_return(never, gamma=1, horizon=1, seed=0), min_effective=1, max_outside=1
        )

    half = math.log(0.5)
    leaves = [episode([1.0, 1.0], [0.0, 0.0], [0.0, half]) for _ in range(40)]
    found = estimate_return(leaves, gamma=1, horizon=2, seed=0)
    assert found.outside == pytest.approx(0.5)
    with pytest.raises(EstimateRefused, match=r"50\.0% of the target's runs"):
        require_support(found, min_effective=10, max_outside=0.05)
    require_support(found, min_effective=10, max_outside=0.6)


def test_what_no_run_has_seen_is_noticed() -> None:
    """A behaviour that mostly stays at one place says little of a uniform target, though evenly."""
    narrow = stats.norm(0, 0.1)
    samples = narrow.rvs(400, random_state=np.random.default_rng(0))
    near = samples[np.abs(samples) < 0.1]  # as luck may have it: all weights are alike
    ratios = np.log(0.5) - narrow.logpdf(near)
    found = estimate_return(
        [episode([a], [q]) for a, q in zip(near.tolist(), ratios.tolist(), strict=True)],
        gamma=1,
        horizon=1,
        seed=0,
    )

    assert found.effective_runs[0] > 200
    with pytest.raises(EstimateRefused, match=r"mean weight at chunk 1 is 0\.1"):
        require_support(found, min_effective=10, max_outside=1)


def test_a_gaussian_is_estimated_from_uniform_draws_as_if_drawn_again_inside() -> None:
    """The restricted policy's return is the truncated Gaussian's, in closed form."""
    mean, deviation = 0.5, 0.4
    law = stats.truncnorm((-1 - mean) / deviation, (1 - mean) / deviation, mean, deviation)
    inside = stats.norm(mean, deviation).cdf(1) - stats.norm(mean, deviation).cdf(-1)
    samples = np.random.default_rng(0).uniform(-1, 1, 4000)
    ratios = stats.norm.logpdf(samples, mean, deviation) - math.log(inside) + math.log(2)
    draws = np.stack([samples, ratios, np.full_like(samples, math.log(inside))], axis=1)
    episodes = [episode([a], [ratio], [covered]) for a, ratio, covered in draws.tolist()]

    found = estimate_return(episodes, gamma=1, horizon=1, seed=0)

    assert found.low < law.mean() < found.high
    assert found.value == pytest.approx(law.mean(), abs=0.05)
    assert found.outside == pytest.approx(1 - inside)
