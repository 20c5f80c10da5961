"""The command `estimate`: what it says of a policy is what running that policy shows."""

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from agent_service.analysis.estimates import EstimateRefused
from agent_service.analysis.evaluation import read_evaluation
from agent_service.cli.main import cli
from agent_service.client import AgentClient
from agent_service.domain.errors import FailedPrecondition, NotFound
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode, Outcome
from agent_service.domain.specs import (
    Algorithm,
    ConstantSettings,
    ControllerSpec,
    PPOSettings,
    RandomSettings,
)
from agent_service.learning.policy_file import from_bytes
from tests.agent_service.decision_log.populations import CHUNKS, create, opinionated, train_all
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent

RUNS = 250
NARROW = PPOSettings(log_std_init=-1.4, rollout_size=50_000)
STEADY = PPOSettings(log_std_init=-2.2, rollout_size=50_000)
WIDE = PPOSettings(log_std_init=-0.5, rollout_size=50_000)


def given(name: str, algorithm: Algorithm) -> ControllerSpec:
    return spec(name, algorithm, reward=Reward.GIVEN)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    """Runs of a random controller, and policies that never update, one for each test."""
    with ServedAgent(tmp_path_factory.mktemp("estimate") / "agent.db") as served:
        for name in ("explore", "uniform"):
            create(served.store, given(name, RandomSettings()))
        policies = {"narrow": NARROW, "wide": WIDE, "same": WIDE, "mixed": NARROW, "steady": STEADY}
        for name, settings in policies.items():
            catalog = create(served.store, given(name, settings))
            data = opinionated(given(name, settings), catalog.export_policy(name, 1).data)
            assert catalog.import_policy(name, data).result() == 2
        create(served.store, given("fixed", ConstantSettings(values={"dropout": 0.3})))
        create(served.store, spec("other", NARROW, reward=Reward.GAP))
        create(served.store, given("seeing", PPOSettings(observe_action=True)))
        create(served.store, given("stepping", PPOSettings(max_change=0.2)))
        create(served.store, spec("longer", NARROW, reward=Reward.GIVEN, chunk_size=5))
        for name in ("explore", "steady"):
            train_all(served.store, name, runs=RUNS)
        yield served


def estimate(served: ServedAgent, behaviour: str, target: str, *words: str) -> Result:
    command = ["estimate", "--agent", served.address, "--controller", behaviour]
    return CliRunner().invoke(cli, [*command, "--target", target, *words])


def interval(result: Result) -> tuple[float, float, float]:
    """Return the estimate and its interval."""
    assert result.exit_code == 0, result.exception
    found = re.search(r": (\S+), 95% within \[(\S+), (\S+)\]", result.stdout)
    assert found
    value, low, high = map(float, found.groups())
    return value, low, high


def test_it_tells_what_running_the_policy_shows(served: ServedAgent) -> None:
    """From random runs alone; the policy then really run lies within the interval."""
    result = estimate(served, "explore", "narrow:2", "--gamma", "1")
    value, low, high = interval(result)
    truth = train_all(served.store, "narrow", runs=RUNS)
    itself = re.search(r"return of explore itself, in the same runs: (\S+)", result.stdout)

    assert low < truth.mean() < high
    assert high - low < 0.5
    assert value == pytest.approx(truth.mean(), abs=0.2)
    assert itself
    assert not low < float(itself[1]) < high, "nothing was to be corrected"


def test_the_policy_of_the_runs_has_their_mean_return(served: ServedAgent) -> None:
    """The behaviour as its own target: each weight is 1, to the bit, and all runs count."""
    returns = train_all(served.store, "same", runs=50)
    result = estimate(served, "same", "same", "--gamma", "1", "--format", "json")
    chunks = [json.loads(line) for line in result.stdout.splitlines()]

    assert [chunk["effective_runs"] for chunk in chunks] == [50.0] * CHUNKS
    assert chunks[-1]["return_so_far"] == pytest.approx(returns.mean(), rel=1e-12)
    assert "return of same: " in result.stderr


def test_a_uniform_target_is_covered_by_a_gaussian(served: ServedAgent) -> None:
    """Samples outside the range weigh nothing; the rest gives the random controller's return."""
    train_all(served.store, "wide", runs=RUNS)
    _, low, high = interval(estimate(served, "wide", "uniform", "--gamma", "1"))
    truth = train_all(served.store, "uniform", runs=RUNS)

    assert low < truth.mean() < high


def test_uniform_draws_are_weighed_by_the_density_inside_the_range(served: ServedAgent) -> None:
    """Of the target restricted to it; the probability that it stays there is told beside it."""
    create(served.store, given("few", RandomSettings()))
    train_all(served.store, "few", runs=5)
    with AgentClient(served.address) as client:
        policy = from_bytes(client.export_policy("wide", 2), given("wide", WIDE))
        read = read_evaluation(client, behaviour="few", target="wide", version=2, horizon=None)
        runs = [list(client.transitions(run_id=f"few-{number}")) for number in range(5)]

    deviation = float(np.exp(policy.arrays["log_std"][0]))
    expected = []
    for log in runs:
        means = np.array([policy.mean(np.array(step.state))[0] for step in log])
        samples = np.array([step.sample[0] for step in log])
        bounds = (-1 - means) / deviation, (1 - means) / deviation
        ratios = stats.truncnorm.logpdf(samples, *bounds, means, deviation) + np.log(2)
        covered = np.log(stats.norm.cdf(bounds[1]) - stats.norm.cdf(bounds[0]))
        ratios[0] = covered[0] = 0.0  # a learning run of the target starts uniformly too
        expected.append([step.reward for step in log] + ratios.tolist() + covered.tolist())
    found = [[*e.rewards, *e.log_ratios, *e.log_covered] for e in read.episodes]
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(expected)), abs=1e-5)
    assert read.horizon == CHUNKS


@pytest.mark.parametrize(
    ("behaviour", "target", "words", "error", "said"),
    [
        ("fixed", "narrow", [], FailedPrecondition, "'fixed' is constant: it decides without"),
        ("explore", "fixed", [], FailedPrecondition, "'fixed' is constant: it decides without"),
        ("explore", "other", [], SystemExit, "'other' has reward gap"),
        ("explore", "longer", [], SystemExit, "'longer' has chunk_size 5"),
        ("explore", "seeing", [], SystemExit, "observes what the log of 'explore' does not"),
        ("explore", "stepping", [], SystemExit, "'stepping' has another max_change"),
        ("explore", "nobody", [], NotFound, "no controller 'nobody'"),
        ("nobody", "narrow", [], NotFound, "no controller 'nobody'"),
        ("explore", "narrow:9", [], NotFound, "no policy version 9"),
        ("explore", "explore:2", [], SystemExit, "it has no policy version 2"),
        ("explore", "narrow", ["--horizon", "1000000000"], SystemExit, "above the longest run's"),
        ("explore", "narrow", ["--gamma", "nan"], SystemExit, "'--gamma': nan is not finite"),
        ("explore", "narrow", ["--min-ess", "inf"], SystemExit, "'--min-ess': inf is not finite"),
        ("explore", "wide", [], EstimateRefused, "would be clipped at a bound"),
        ("steady", "explore", [], EstimateRefused, "no run has been where the target would"),
        ("explore", "narrow", ["--min-ess", "300"], EstimateRefused, "at chunk 1"),
        ("other", "other", [], FailedPrecondition, "it has none"),
    ],
)
def test_what_cannot_be_estimated_is_refused(
    served: ServedAgent,
    behaviour: str,
    target: str,
    words: list[str],
    error: type[BaseException],
    said: str,
) -> None:
    """With the reason, and no number at all."""
    result = estimate(served, behaviour, target, *words)

    assert isinstance(result.exception, error)
    assert said in str(result.exception) + result.stderr
    assert result.stdout == ""


def test_runs_that_cannot_be_weighed_are_left_out(served: ServedAgent) -> None:
    """Frozen, unfinished and cut ones, and those under values of their own; all are counted."""
    train_all(served.store, "mixed", runs=30, prefix="whole")
    train_all(served.store, "mixed", runs=2, mode=Mode.FROZEN, prefix="frozen")
    with AgentClient(served.address) as client:
        client.run("mixed", run_id="unfinished")
        client.run("mixed", run_id="empty").finish()
        own = client.run("mixed", run_id="own")
        own._report([1.0] * 4, lambda: (0.5,), count=1, applied={"dropout": 0.1})
        own.finish()
        for number in range(3):
            cut = client.run("mixed", run_id=f"cut-{number}")
            cut.report_reward([1.0] * 4, 1e6)
            cut.finish(Outcome.TRUNCATED)

    whole, first = (
        estimate(served, "mixed", "mixed", *words) for words in ((), ("--horizon", "1"))
    )

    reasons = "2 decided without chance, 1 not finished, 1 under values of their own"
    assert f"left out: 3 cut before chunk 3, {reasons}, 1 without a chunk\n" in whole.stdout
    assert abs(interval(whole)[0]) < 10
    assert f"left out: {reasons}, 1 without a chunk\n" in first.stdout
    assert interval(first)[0] > 1000, "what is cut later counts up to the horizon"


def test_a_wrong_version_is_bad_usage(served: ServedAgent) -> None:
    """Exit code 2, with the form."""
    for target in ("narrow:x", "narrow:", "narrow:0"):
        result = estimate(served, "explore", target)
        assert result.exit_code == 2
        assert "version from 1" in result.stderr
