"""The metrics page: what its series say, and that it does not grow with what has ended."""

import itertools
import math
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from agent_service.client import AgentClient, ConstantSettings, Hyperparameter, Scale
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import NotFound
from agent_service.domain.runs import Mode, Outcome
from agent_service.metrics import decisions as metrics_module
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.25]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def run_series(registry: CollectorRegistry) -> set[str]:
    return {
        sample.labels["run"]
        for metric in registry.collect()
        for sample in metric.samples
        if "run" in sample.labels
    }


def test_a_runs_gauges_follow_its_last_chunk_and_go_with_it(
    served: ServedAgent, client: AgentClient
) -> None:
    """Action, reward and mean loss of the chunk that came last; nothing once the run ended."""
    client.create_controller(spec(hyperparameters=(DROPOUT, NOISE)))
    run = client.run("c", run_id="r")
    assert run_series(served.registry) == {"r"}
    run.report_chunk(LOSSES, training_score=0.75, validation_score=0.5)

    names = {"controller": "c", "run": "r"}
    for h, expected in run.hyperparameters.items():
        assert value(served.registry, "agent_run_action", **names, hyperparameter=h) == expected
    assert value(served.registry, "agent_run_reward", **names) == -0.25
    assert value(served.registry, "agent_run_loss", **names) == 1.5

    run.finish()
    assert run_series(served.registry) == set()


def test_a_run_that_reported_nothing_goes_too(served: ServedAgent, client: AgentClient) -> None:
    """It has an action and no reward; both kinds are gone when it ends."""
    client.create_controller(spec())
    client.run("c").finish()

    assert run_series(served.registry) == set()


def test_runs_past_the_limit_are_counted_and_not_shown(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stays small: with a limit of two, the third run has no gauges, once."""
    monkeypatch.setattr(metrics_module, "RUN_SERIES_LIMIT", 2)
    client.create_controller(spec())
    runs = [client.run("c", run_id=f"r{i}") for i in range(3)]
    for run in runs:
        run.report_chunk(LOSSES, training_score=0, validation_score=0)

    assert run_series(served.registry) == {"r0", "r1"}
    assert value(served.registry, "agent_run_series_dropped_total") == 1
    for run in runs:
        run.finish()
    assert run_series(served.registry) == set()


def test_decisions_and_rewards_are_counted_once(served: ServedAgent, client: AgentClient) -> None:
    """Actions by controller and mode, and as shares of their range; rewards as they are."""
    client.create_controller(spec(algorithm=RandomSettings(), hyperparameters=(NOISE,)))
    with client.run("c") as run:
        for _ in range(3):
            run.report_chunk(LOSSES, training_score=0.25, validation_score=0.5)
    registry = served.registry

    assert value(registry, "agent_decisions_total", controller="c", mode="learning") == 4
    assert value(registry, "agent_action_count", controller="c", hyperparameter="noise") == 4
    for le, count in (("0.2", 0), ("0.3", 3)):
        assert value(registry, "agent_reward_bucket", controller="c", le=le) == count
    buckets = {"controller": "c", "hyperparameter": "noise"}
    assert value(registry, "agent_action_bucket", **buckets, le="1.0") == 4


def test_a_shadow_run_shows_how_far_it_is_from_what_would_be_decided(
    served: ServedAgent, client: AgentClient
) -> None:
    """As a share of the range, on its scale; 0 is agreement, and other runs do not count."""
    noise = Hyperparameter(name="noise", low=0.001, high=1.0, scale=Scale.LOG)
    constant = ConstantSettings(values={"dropout": 0.45, "noise": 0.1})
    client.create_controller(spec(algorithm=constant, hyperparameters=(DROPOUT, noise)))
    with client.run("c", run_id="r", mode=Mode.SHADOW) as run:
        for dropout in (0.45, 0.45, 0.0, 0.9):
            run.report_chunk(
                LOSSES,
                training_score=0,
                validation_score=0,
                applied={"dropout": dropout, "noise": 0.01},
            )
    with client.run("c", mode=Mode.FROZEN) as run:
        run.report_chunk(
            LOSSES, training_score=0, validation_score=0, applied={"dropout": 0.0, "noise": 1.0}
        )

    name, of = "agent_shadow_difference", {"controller": "c", "hyperparameter": "dropout"}
    assert value(served.registry, f"{name}_count", **of) == 4
    assert value(served.registry, f"{name}_bucket", **of, le="0.0") == 2
    assert value(served.registry, f"{name}_sum", **of) == 1.0
    of["hyperparameter"] = "noise"
    assert value(served.registry, f"{name}_sum", **of) == pytest.approx(4 / 3)


def test_what_the_store_knows_is_read_at_each_scrape(
    served: ServedAgent, client: AgentClient
) -> None:
    """Runs, transitions, versions and the last update's statistics, though none was observed."""
    small = PPOSettings(rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,))
    client.create_controller(spec(algorithm=small))
    with client.run("c") as run:
        for chunk in range(8):
            run.report_chunk(LOSSES, training_score=0.5, validation_score=chunk / 8)
    client.run("c", run_id="active")
    learn_once(served.store)
    registry = served.registry

    assert value(registry, "agent_runs", controller="c", state="finished") == 1
    assert value(registry, "agent_runs", controller="c", state="active") == 1
    assert value(registry, "agent_transitions_total", controller="c", use="learned") == 8
    assert value(registry, "agent_policy_version", controller="c") == 2
    assert value(registry, "agent_policy_updates_total", controller="c") == 1
    assert value(registry, "agent_policy_update_seconds_count", controller="c") == 1
    assert value(registry, "agent_policy_staleness", controller="c") == 0
    for statistic in ("approx_kl", "entropy", "explained_variance", "policy_loss", "value_loss"):
        shown = value(registry, "agent_ppo", controller="c", statistic=statistic)
        assert shown is not None
        assert math.isfinite(shown)


def test_updates_add_up_from_page_to_page(served: ServedAgent, client: AgentClient) -> None:
    """A page reads the versions that are new, and tells of all that there are."""
    small = PPOSettings(rollout_size=4, batch_size=4, n_epochs=1, net_arch=(4,))
    client.create_controller(spec(algorithm=small))
    told = []
    for _ in range(3):
        with client.run("c") as run:
            for _ in range(4):
                run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
        learn_once(served.store)
        told.append(
            (
                value(served.registry, "agent_policy_updates_total", controller="c"),
                value(served.registry, "agent_policy_update_seconds_count", controller="c"),
                value(served.registry, "agent_policy_update_seconds_sum", controller="c"),
            )
        )
    seconds = [v.statistics["seconds"] for v in client.list_policy_versions("c") if v.statistics]

    assert [count for count, _, _ in told] == [timed for _, timed, _ in told] == [1, 2, 3]
    assert told[-1][2] == pytest.approx(sum(seconds))


def test_rewards_add_up_by_sign(served: ServedAgent, client: AgentClient) -> None:
    """Both sums only rise, whatever the rewards, so that Prometheus can take their rates."""
    client.create_controller(spec())
    with client.run("c") as run:
        for validation in (0.25, 0.75, 0.5, 1.0):
            run.report_chunk(LOSSES, training_score=0.5, validation_score=validation)

    for sign, total in (("positive", 0.75), ("negative", 0.25)):
        shown = value(served.registry, "agent_reward_magnitude_total", controller="c", sign=sign)
        assert shown == total


def test_a_rollout_fills_until_it_is_learned_from(served: ServedAgent, client: AgentClient) -> None:
    """The share that waits; nothing of a frozen controller, whose transitions nobody takes."""
    small = PPOSettings(rollout_size=8, batch_size=4, n_epochs=1, net_arch=(8,))
    client.create_controller(spec(algorithm=small))

    def filled() -> float | None:
        return value(served.registry, "agent_rollout_filled_ratio", controller="c")

    assert filled() == 0
    for chunks in (6, 4):
        with client.run("c") as run:
            for _ in range(chunks):
                run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    assert filled() == 10 / 8
    learn_once(served.store)
    assert filled() == 2 / 8

    client.set_mode("c", Mode.FROZEN)
    assert filled() is None


def test_ends_are_counted_by_outcome(served: ServedAgent, client: AgentClient) -> None:
    """Each outcome is there from the begin, so that its first one is an increase."""
    client.create_controller(spec())

    def ended(outcome: Outcome) -> float | None:
        names = {"controller": "c", "outcome": outcome.value}
        return value(served.registry, "agent_finished_runs_total", **names)

    assert [ended(outcome) for outcome in Outcome] == [0, 0, 0, 0]
    for outcome in (Outcome.DIVERGED, Outcome.TERMINATED, Outcome.DIVERGED):
        client.run("c").finish(outcome)
    client.run("c")

    counted = {outcome: ended(outcome) for outcome in Outcome}
    assert (counted[Outcome.DIVERGED], counted[Outcome.TERMINATED]) == (2, 1)
    assert sum(filter(None, counted.values())) == 3


@pytest.mark.parametrize("algorithm", [PPOSettings(), RandomSettings()])
def test_recorded_transitions_are_complete_ones(
    served: ServedAgent, client: AgentClient, algorithm: PPOSettings | RandomSettings
) -> None:
    """As many as the log shows: an action whose chunk was never reported is no transition."""
    client.create_controller(spec(algorithm=algorithm))
    client.run("c").finish()
    with client.run("c", mode=Mode.FROZEN) as run:
        for _ in range(3):
            run.report_chunk(LOSSES, training_score=0, validation_score=0)

    recorded = value(served.registry, "agent_transitions_total", controller="c", use="recorded")
    assert recorded == len(list(client.transitions())) == 3


def test_rows_are_counted_seldom_where_that_takes_long(
    served: ServedAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting takes a second here, by the clock: once in a hundred of them it is done."""
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("agent_service.metrics.incremental.time", clock)
    client.create_controller(spec())
    shown = []
    with client.run("c", mode=Mode.FROZEN) as run:
        for _ in range(202):
            run.report_chunk(LOSSES, training_score=0, validation_score=0)
            page = value(served.registry, "agent_transitions_total", controller="c", use="recorded")
            shown.append(page)

    assert set(shown) == {1, 101, 201}


def test_calls_are_counted_by_method_and_code(served: ServedAgent, client: AgentClient) -> None:
    """With the names and labels of Go's gRPC middleware."""
    client.create_controller(spec())
    with pytest.raises(NotFound):
        client.get_run("missing")
    labels = {"grpc_type": "unary", "grpc_service": "agent_service.v1.AgentService"}

    for method, code in (("CreateController", "OK"), ("GetRun", "NotFound")):
        counted = value(
            served.registry,
            "grpc_server_handled_total",
            **labels,
            grpc_method=method,
            grpc_code=code,
        )
        assert counted == 1


def test_a_commit_is_timed_and_its_calls_counted(served: ServedAgent, client: AgentClient) -> None:
    """As many calls as were made, in at most as many commits."""
    client.create_controller(spec())
    client.run("c").finish()

    assert value(served.registry, "agent_journal_batch_size_sum") == 3
    commits = value(served.registry, "agent_journal_commit_seconds_count")
    assert commits is not None
    assert 1 <= commits <= 3


def test_a_damaged_store_leaves_the_page_its_other_series(
    served: ServedAgent, client: AgentClient
) -> None:
    """A scrape is answered all the same, without what the store would tell."""
    client.create_controller(spec())
    client.run("c")
    assert value(served.registry, "agent_store_readable") == 1
    with served.store._writing.begin() as connection:
        connection.exec_driver_sql("UPDATE controllers SET policy_version = 9")

    assert value(served.registry, "agent_policy_version", controller="c") is None
    assert value(served.registry, "agent_store_readable") == 0
    labels = {"controller": "c", "mode": "learning"}
    assert value(served.registry, "agent_decisions_total", **labels) == 1
