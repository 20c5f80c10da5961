"""The trainer's metrics: their values after events; ended runs leave no series."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.trainer_service.runs.test_store import CHUNK, FINISHED, QUEUED, RUNNING, SUCCEEDED
from trainer_service.runs.metrics import Metrics
from trainer_service.runs.run import EventContent, Planned
from trainer_service.workers.value_source import WAITS

AWAY = replace(RUNNING, cause=f"{WAITS}: nobody there")
PLANNED = Planned(chunks=4)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def observe(metrics: Metrics, *events: EventContent, run_id: str = "r") -> None:
    for what in events:
        metrics.observe(run_id, what)


def test_a_runs_gauges_are_of_its_last_chunk(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Mean loss, scores, values and progress, until the run ends or is queued again."""

    def shown() -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels.get("split") or sample.labels.get("hyperparameter", "")): (
                sample.value
            )
            for family in registry.collect()
            for sample in family.samples
            if "run" in sample.labels
        }

    observe(metrics, RUNNING, PLANNED, CHUNK)
    assert shown() == {
        ("trainer_run_loss", "train"): (2.5 + 1 / 3) / 2,
        ("trainer_run_loss", "validation"): 2.0,
        ("trainer_run_score", "train"): 0.1,
        ("trainer_run_score", "validation"): 0.2,
        ("trainer_run_hyperparameter", "dropout"): 0.1 + 0.2,
        ("trainer_run_progress", ""): 0.25,
    }
    observe(metrics, QUEUED)
    assert shown() == {}


@pytest.mark.parametrize(
    ("events", "held"),
    [
        ([RUNNING, PLANNED, CHUNK, AWAY, RUNNING], 1),
        # Attempts with different causes are one wait.
        ([RUNNING, PLANNED, AWAY, replace(AWAY, cause=f"{WAITS}: refused"), RUNNING], 1),
        ([RUNNING, PLANNED, AWAY, RUNNING, CHUNK, AWAY], 2),
        # Before its start is confirmed, a run has no action to hold.
        ([RUNNING, AWAY, RUNNING, PLANNED, CHUNK], 0),
        ([RUNNING, PLANNED, replace(AWAY, cause="no checkpoint can be written"), RUNNING], 0),
        ([RUNNING, PLANNED, AWAY, QUEUED, RUNNING, AWAY, RUNNING, PLANNED], 1),
    ],
)
def test_held_actions_are_waits_of_runs_that_have_one(
    registry: CollectorRegistry, metrics: Metrics, events: list[EventContent], held: int
) -> None:
    """Each wait counts once, at its start."""
    observe(metrics, *events)

    assert registry.get_sample_value("trainer_agent_held_actions_total") == held


def test_runs_that_diverged_are_counted(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Only those; the counter exists, at 0, before the first."""
    assert registry.get_sample_value("trainer_diverged_runs_total") == 0
    observe(metrics, RUNNING, PLANNED, CHUNK, FINISHED, SUCCEEDED)
    observe(metrics, RUNNING, PLANNED, replace(FINISHED, diverged=True), SUCCEEDED)

    assert registry.get_sample_value("trainer_diverged_runs_total") == 1


def test_a_hundred_runs_leave_the_page_as_small_as_before(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """In the number of series; counters keep their totals."""

    def live(run_id: str) -> int:
        """Return the number of series while it trained."""
        observe(metrics, RUNNING, PLANNED, AWAY, CHUNK, run_id=run_id)
        during = series()
        observe(metrics, FINISHED, SUCCEEDED, run_id=run_id)
        return during

    def series() -> int:
        return sum(not line.startswith(b"#") for line in generate_latest(registry).splitlines())

    live("first")
    before = series()
    most = max(live(f"run-{number}") for number in range(100))

    assert most == before + 6
    assert series() == before
    assert registry.get_sample_value("trainer_chunk_seconds_count") == 101
