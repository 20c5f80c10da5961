"""Trial histories: what they keep, and the best of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.domain.errors import InvalidArgument
from agent_service.domain.trials import BEST, KEPT, TrialHistory, no_trials
from agent_service.learning import trial_file
from tests.agent_service.specs import DROPOUT, NOISE, spec

OF = spec(hyperparameters=(DROPOUT, NOISE))
SCORES = st.floats(0, 1) | st.just(math.nan) | st.sampled_from([0.0, 0.5, 1.0])


def history(scores: list[float]) -> TrialHistory:
    made = no_trials(1)
    for place, score in enumerate(scores):
        made = made.with_trial((place / 1000,), score)
    return made


def test_trials_are_kept_in_order() -> None:
    """Samples clipped to the range, and scores, NaN for a run that diverged."""
    made = no_trials(1).with_trial((0.5,), 0.25).with_trial((3.0,), math.nan)

    assert made.samples.tolist() == [[0.5], [1.0]]
    np.testing.assert_array_equal(made.scores, [0.25, math.nan])


@pytest.mark.parametrize(
    ("scores", "best"),
    [([], None), ([math.nan], None), ([0.25, math.nan, 0.5, 0.5], 2), ([-1.0], 0)],
)
def test_the_best_is_the_first_of_the_largest(scores: list[float], best: int | None) -> None:
    """Whatever diverged; none where no run has a score."""
    assert history(scores).best == best


@given(
    early=st.lists(st.sampled_from([0.8, 0.9, 1.0, math.nan]), min_size=20, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=25)
def test_a_long_history_keeps_the_best_and_the_newest(early: list[float], seed: int) -> None:
    """Its 25 best of all that ever were, the newest of the others, and never more than 256."""
    scores = early + np.random.default_rng(seed).uniform(0.25, 0.75, KEPT).tolist()
    scored = [i for i in range(len(scores)) if not math.isnan(scores[i])]
    best = set(sorted(scored, key=lambda i: -scores[i])[:BEST])
    others = [i for i in range(len(scores)) if i not in best][-(KEPT - BEST) :]

    kept = history(scores)

    expected = sorted(best | set(others))
    assert kept.samples[:, 0].tolist() == [i / 1000 for i in expected]


@given(
    trials=st.lists(st.tuples(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), SCORES), max_size=20)
)
@settings(deadline=None)
def test_a_file_holds_what_was_written(trials: list[tuple[tuple[float, float], float]]) -> None:
    """Values to the twelve digits that a child runs under, scores to the bit; again the same."""
    made = no_trials(2)
    for sample, score in trials:
        made = made.with_trial(sample, score)

    data = trial_file.to_bytes(made, OF)
    read = trial_file.from_bytes(data, OF)

    np.testing.assert_allclose(read.samples, made.samples, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(read.scores, made.scores)
    assert trial_file.to_bytes(read, OF) == data


def test_a_thousand_runs_take_little_room() -> None:
    """Versions stop to grow at 256 trials, whatever comes after."""
    made = no_trials(1)
    sizes = []
    draws = np.random.default_rng(0)
    for _ in range(1000):
        made = made.with_trial((draws.uniform(-1, 1),), draws.uniform())
        sizes.append(len(trial_file.to_bytes(made, spec())))

    assert max(sizes) < 12_000
    assert max(sizes[KEPT:]) < 1.01 * sizes[KEPT]
    assert sum(sizes) < 10_000_000


GOOD = trial_file.to_bytes(no_trials(2).with_trial((0.5, 0.25), 0.75), OF)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no file of trials"),
        (b"\x80\x04K\x01.", "no file of trials"),
        (b"[" * 50_000, "no file of trials"),
        (b"x" * 1_000_000, "at most"),
        (GOOD.replace(b'"format":1', b'"format":2'), "format"),
        (GOOD.replace(b"0.75", b"NaN"), "no file of trials"),
        (GOOD.replace(b"0.75", b"1e999"), "no file of trials"),
        (GOOD.replace(b"0.75", b'"much"'), "no file of trials"),
        (GOOD.replace(b"[0.675,", b"[0.9001,"), "not in"),
        (GOOD.replace(b"[0.675,", b"[0.5,0.5,"), "3 values"),
        (GOOD.replace(b'"trials"', b'"more":1,"trials"'), "more"),
        (GOOD.replace(b"[[[", b"[" + b"[[0.5,0.5],1]," * KEPT + b"[["), "too_long"),
        (trial_file.to_bytes(no_trials(1), spec()), "made for"),
        (GOOD.replace(b'"low":0.0', b'"low":5.0'), "no file of trials"),
    ],
)
def test_what_is_no_file_of_trials_is_refused(data: bytes, message: str) -> None:
    """INVALID_ARGUMENT names the policy and what is wrong with it."""
    assert data != GOOD
    with pytest.raises(InvalidArgument, match=message) as raised:
        trial_file.from_bytes(data, OF)

    assert [v.field for v in raised.value.violations] == ["policy"]
