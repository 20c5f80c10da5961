"""The metrics page: its series follow what happened, and runs that ended have none."""

import itertools
import math
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from agent_service.client import (
    AgentClient,
    ConstantSettings,
    Hyperparameter,
    Mode,
    Outcome,
    PPOSettings,
    RandomSettings,
    Scale,
)
from agent_service.domain.errors import NotFound
from agent_service.metrics import decisions as metrics_module
from tests.agent_service.calls import LOSSES, report, train
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.given import ServedAgent


def value(served: ServedAgent, name: str, **labels: str) -> float | None:
    """Return a series of the page; of controller `c`, if it is of a controller."""
    of = {"controller": "c"} if name.startswith("agent_") else {}
    return served.registry.get_sample_value(name, of | labels)


def run_series(registry: CollectorRegistry) -> set[str]:
    samples = (sample for metric in registry.collect() for sample in metric.samples)
    return {sample.labels["run"] for sample in samples if "run" in sample.labels}


def test_a_runs_gauges_follow_its_last_chunk_and_go_with_it(
    served: ServedAgent, client: AgentClient
) -> None:
    """Action, reward and mean loss of the last chunk; nothing once the run ended."""
    client.create_controller(spec(hyperparameters=(DROPOUT, NOISE)))
    client.run("c").finish()
    assert run_series(served.registry) == set(), "not even if it reported nothing"
    run = client.run("c", run_id="r")
    assert run_series(served.registry) == {"r"}
    report(run, training=0.75)

    for h, expected in run.hyperparameters.items():
        assert value(served, "agent_run_action", run="r", hyperparameter=h) == expected
    assert value(served, "agent_run_reward", run="r") == -0.25
    assert value(served, "agent_run_loss", run="r") == sum(LOSSES) / 4

    run.finish()
    assert run_series(served.registry) == set()


def test_runs_beyond_the_limit_are_counted_and_not_shown(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stays small: with a limit of two, the third run has no gauges, once."""
    monkeypatch.setattr(metrics_module, "RUN_SERIES_LIMIT", 2)
    client.create_controller(spec())
    runs = [client.run("c", run_id=f"r{i}") for i in range(3)]
    for run in runs:
        report(run)

    assert run_series(served.registry) == {"r0", "r1"}
    assert served.registry.get_sample_value("agent_run_series_dropped_total") == 1


def test_decisions_and_rewards_are_counted_once(served: ServedAgent, client: AgentClient) -> None:
    """Actions as shares of their range; rewards as they are, and their sums by sign.

    A commit is timed, and its calls are counted.
    """
    client.create_controller(spec(algorithm=RandomSettings(), hyperparameters=(NOISE,)))
    with client.run("c") as run:
        for validation in (0.25, 0.75, 0.5, 1.0):
            report(run, validation=validation)

    assert value(served, "agent_decisions_total", mode="learning") == 5
    assert value(served, "agent_action_count", hyperparameter="noise") == 5
    assert value(served, "agent_action_bucket", hyperparameter="noise", le="1.0") == 5
    for le, count in (("-0.3", 0), ("-0.2", 1), ("0.0", 2), ("0.3", 3)):
        assert value(served, "agent_reward_bucket", le=le) == count
    for sign, total in (("positive", 0.75), ("negative", 0.25)):
        assert value(served, "agent_reward_magnitude_total", sign=sign) == total
    assert served.registry.get_sample_value("agent_journal_batch_size_sum") == 7
    commits = served.registry.get_sample_value("agent_journal_commit_seconds_count")
    assert commits is not None
    assert 1 <= commits <= 7


def test_a_shadow_run_shows_its_distance_from_the_decisions(
    served: ServedAgent, client: AgentClient
) -> None:
    """As a share of the range, on its scale; 0 is agreement, and other runs do not count."""
    noise = Hyperparameter(name="noise", low=0.001, high=1.0, scale=Scale.LOG)
    constant = ConstantSettings(values={"dropout": 0.45, "noise": 0.1})
    client.create_controller(spec(algorithm=constant, hyperparameters=(DROPOUT, noise)))
    with client.run("c", run_id="r", mode=Mode.SHADOW) as run:
        for dropout in (0.45, 0.45, 0.0, 0.9):
            report(run, applied={"dropout": dropout, "noise": 0.01})
    with client.run("c", mode=Mode.FROZEN) as run:
        report(run, applied={"dropout": 0.0, "noise": 1.0})

    name = "agent_shadow_difference"
    assert value(served, f"{name}_count", hyperparameter="dropout") == 4
    assert value(served, f"{name}_bucket", hyperparameter="dropout", le="0.0") == 2
    assert value(served, f"{name}_sum", hyperparameter="dropout") == 1.0
    assert value(served, f"{name}_sum", hyperparameter="noise") == pytest.approx(4 / 3)


def test_updates_are_read_from_the_store(served: ServedAgent, client: AgentClient) -> None:
    """How full the rollout is, versions, durations that add up, the last update's statistics."""
    small = PPOSettings(rollout_size=8, batch_size=4, n_epochs=1, net_arch=(8,))
    client.create_controller(spec(algorithm=small))
    client.run("c", run_id="active")
    seen = []
    for chunks in (6, 4, 14):
        seen.append(value(served, "agent_rollout_filled_ratio"))
        train(client, chunks=chunks)
        while learn_once(served.store):
            pass
    seconds = [v.statistics["seconds"] for v in client.list_policy_versions("c") if v.statistics]

    assert seen == [0, 6 / 8, 2 / 8]
    assert value(served, "agent_runs", state="finished") == 3
    assert value(served, "agent_runs", state="active") == 1
    assert value(served, "agent_transitions_total", use="learned") == 24
    assert value(served, "agent_policy_version") == 4
    assert value(served, "agent_policy_updates_total") == 3
    assert value(served, "agent_policy_update_seconds_count") == 3
    assert value(served, "agent_policy_update_seconds_sum") == pytest.approx(sum(seconds))
    assert value(served, "agent_policy_staleness") == 1
    for statistic in ("approx_kl", "entropy", "explained_variance", "policy_loss", "value_loss"):
        shown = value(served, "agent_ppo", statistic=statistic)
        assert shown is not None
        assert math.isfinite(shown)
    client.set_mode("c", Mode.FROZEN)
    assert value(served, "agent_rollout_filled_ratio") is None


def test_ends_are_counted_by_outcome(served: ServedAgent, client: AgentClient) -> None:
    """Each outcome is there from the beginning, so that its first one is an increase."""
    client.create_controller(spec())

    def ended() -> list[float | None]:
        return [value(served, "agent_finished_runs_total", outcome=o.value) for o in Outcome]

    assert ended() == [0, 0, 0, 0]
    for outcome in (Outcome.DIVERGED, Outcome.TERMINATED, Outcome.DIVERGED):
        client.run("c").finish(outcome)
    client.run("c")

    counts = {Outcome.DIVERGED: 2, Outcome.TERMINATED: 1}
    assert ended() == [counts.get(outcome, 0) for outcome in Outcome]


@pytest.mark.parametrize("algorithm", [PPOSettings(), RandomSettings()])
def test_recorded_transitions_are_complete_ones(
    served: ServedAgent, client: AgentClient, algorithm: PPOSettings | RandomSettings
) -> None:
    """As many as the log has: an action whose chunk was never reported is no transition."""
    client.create_controller(spec(algorithm=algorithm))
    client.run("c").finish()
    train(client, chunks=3, mode=Mode.FROZEN)

    recorded = value(served, "agent_transitions_total", use="recorded")
    assert recorded == len(list(client.transitions())) == 3


def test_rows_are_counted_seldom_if_that_takes_long(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting takes a second here, by the clock: it is done once in a hundred of them."""
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("agent_service.metrics.incremental.time", clock)
    client.create_controller(spec())
    shown = set()
    with client.run("c", mode=Mode.FROZEN) as run:
        for _ in range(202):
            report(run)
            shown.add(value(served, "agent_transitions_total", use="recorded"))

    assert shown == {1, 101, 201}


def test_calls_are_counted_by_method_and_code(served: ServedAgent, client: AgentClient) -> None:
    """With the names and labels of Go's gRPC middleware."""
    client.create_controller(spec())
    with pytest.raises(NotFound):
        client.get_run("missing")
    labels = {"grpc_type": "unary", "grpc_service": "agent_service.v1.AgentService"}

    for method, code in (("CreateController", "OK"), ("GetRun", "NotFound")):
        of = {**labels, "grpc_method": method, "grpc_code": code}
        assert value(served, "grpc_server_handled_total", **of) == 1


def test_a_damaged_store_leaves_the_page_its_other_series(
    served: ServedAgent, client: AgentClient
) -> None:
    """A scrape is answered all the same, without the series of the store."""
    client.create_controller(spec())
    client.run("c")
    assert served.registry.get_sample_value("agent_store_readable") == 1
    with served.store._writing.begin() as connection:
        connection.exec_driver_sql("UPDATE controllers SET policy_version = 9")

    assert value(served, "agent_policy_version") is None
    assert served.registry.get_sample_value("agent_store_readable") == 0
    assert value(served, "agent_decisions_total", mode="learning") == 1
