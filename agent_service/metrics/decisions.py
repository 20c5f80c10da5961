"""Metrics of decisions and commits, each declared once.

Observed when decisions become durable. Metrics that can be counted in the store are in `stored`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from agent_service.domain.runs import Decision, Mode, Run
from agent_service.domain.specs import ControllerSpec

RUN_SERIES_LIMIT = 1000
"""Maximum number of active runs with their own gauges; the others are only counted."""
_SHARES = [tenth / 10 for tenth in range(11)]
_DIFFERENCES = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
_REWARDS = [tenth / 10 for tenth in range(-10, 11)]
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class _HistogramCounts:
    """A histogram's counts; prometheus_client's would add a tenth to a report's time."""

    bounds: Sequence[float]
    """Inclusive upper bounds, ascending; values above the last have a count of their own."""
    counts: list[int]
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, as Prometheus expects them."""
        names = (*map(floatToGoString, self.bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


def _histogram(bounds: Sequence[float]) -> _HistogramCounts:
    return _HistogramCounts(bounds, [0] * (len(bounds) + 1))


@dataclass(frozen=True, slots=True)
class _ControllerCounts:
    """Counts of a controller's decisions and rewards."""

    decisions: dict[Mode, int]
    actions: Mapping[str, _HistogramCounts]
    """By hyperparameter."""
    differences: Mapping[str, _HistogramCounts]
    """Between applied and decided values of shadow runs, by hyperparameter."""
    reward: _HistogramCounts
    magnitudes: dict[str, float]
    """Sums of absolute rewards, by sign."""


class DecisionMetrics:
    """Observes durable decisions and ends of runs. Thread-safe.

    Decisions are far more frequent than scrapes, so series are built during scrapes: by
    `StoreCollector`, which first removes those of deleted controllers.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declare the metrics of runs and commits in `registry`."""
        self._dropped = Counter(
            "agent_run_series_dropped_total",
            "Runs without their own gauges, since too many were active.",
            registry=registry,
        )
        self._commit_seconds = Histogram(
            "agent_journal_commit_seconds",
            "Time of one group commit, from its first statement until it is durable.",
            unit="seconds",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "agent_journal_batch_size",
            "Calls in one group commit.",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
            registry=registry,
        )
        self._lock = threading.Lock()
        self._controllers: dict[str, _ControllerCounts] = {}
        self._newest: dict[str, tuple[Run, Decision]] = {}
        """Latest decision of each run that has gauges."""

    def committed(self, seconds: float, size: int) -> None:
        """Observe one group commit."""
        self._commit_seconds.observe(seconds)
        self._batch_size.observe(size)

    def decided(self, run: Run, decision: Decision, running: Decision | None) -> None:
        """Observe a new decision; never called for a repeated call.

        `running` is the decision that the reported chunk ran under; None for A_0.
        """
        spec = run.controller.spec
        with self._lock:
            counts = self._controllers.get(spec.name) or self._add_controller(spec)
            counts.decisions[run.mode] += 1
            for h in spec.hyperparameters:
                share = (h.unit(decision.values[h.name]) + 1.0) / 2.0
                counts.actions[h.name].observe(share)
            if run.mode is Mode.SHADOW and running is not None and decision.applied is not None:
                for h in spec.hyperparameters:
                    apart = h.unit(decision.applied[h.name]) - h.unit(running.values[h.name])
                    counts.differences[h.name].observe(abs(apart) / 2.0)
            if decision.reward is not None:
                counts.reward.observe(decision.reward)
                sign = "negative" if decision.reward < 0 else "positive"
                counts.magnitudes[sign] += abs(decision.reward)
            if run.id in self._newest or len(self._newest) < RUN_SERIES_LIMIT:
                self._newest[run.id] = (run, decision)
            elif decision.chunk == 1:
                self._dropped.inc()

    def _add_controller(self, spec: ControllerSpec) -> _ControllerCounts:
        counts = _ControllerCounts(
            decisions=dict.fromkeys(Mode, 0),
            actions={h.name: _histogram(_SHARES) for h in spec.hyperparameters},
            differences={h.name: _histogram(_DIFFERENCES) for h in spec.hyperparameters},
            reward=_histogram(_REWARDS),
            magnitudes={"positive": 0.0, "negative": 0.0},
        )
        self._controllers[spec.name] = counts
        return counts

    def names(self) -> set[str]:
        """Return the controllers that have series."""
        with self._lock:
            return set(self._controllers)

    def forget(self, names: set[str]) -> None:
        """Remove the series of controllers, so that those of deleted ones do not accumulate."""
        with self._lock:
            for name in names:
                self._controllers.pop(name, None)

    def ended(self, run: Run) -> None:
        """Remove the gauges of a run that was finished or abandoned; the latter may continue."""
        with self._lock:
            self._newest.pop(run.id, None)

    def collect(self) -> Iterable[Metric]:
        """Return the series of controllers and of active runs."""
        with self._lock:
            return [*self._of_controllers(), self._of_shadows(), *self._of_runs()]

    def _of_controllers(self) -> list[Metric]:
        decisions = CounterMetricFamily(
            "agent_decisions", "Actions decided, by the run's mode.", labels=("controller", "mode")
        )
        action = HistogramMetricFamily(
            "agent_action",
            "Actions decided, from 0 (low end of the hyperparameter's range) to 1 (high end).",
            labels=("controller", "hyperparameter"),
        )
        reward = HistogramMetricFamily(
            "agent_reward",
            "Rewards of reported chunks; as differences of scores they are in [-1, 1].",
            labels=("controller",),
        )
        # Rewards may be negative, so their sum is not a counter and the histogram has none.
        magnitude = CounterMetricFamily(
            "agent_reward_magnitude",
            "Sum of absolute rewards, by sign; positive minus negative is the sum of rewards.",
            labels=("controller", "sign"),
        )
        for name, counts in self._controllers.items():
            for mode, count in counts.decisions.items():
                decisions.add_metric((name, mode.value), count)
            for hyperparameter, histogram in counts.actions.items():
                action.add_metric((name, hyperparameter), histogram.buckets(), histogram.total)
            reward.add_metric((name,), counts.reward.buckets(), counts.reward.total)
            for sign, total in counts.magnitudes.items():
                magnitude.add_metric((name, sign), total)
        return [decisions, action, reward, magnitude]

    def _of_shadows(self) -> Metric:
        difference = HistogramMetricFamily(
            "agent_shadow_difference",
            "Distance of the values that shadow runs ran under from the decided ones, as a share "
            "of the hyperparameter's range; 0 is agreement.",
            labels=("controller", "hyperparameter"),
        )
        for name, counts in self._controllers.items():
            for hyperparameter, histogram in counts.differences.items():
                difference.add_metric((name, hyperparameter), histogram.buckets(), histogram.total)
        return difference

    def _of_runs(self) -> list[Metric]:
        names = ("controller", "run")
        action = GaugeMetricFamily(
            "agent_run_action",
            "The action that an active run trains under, in the hyperparameter's own unit.",
            labels=(*names, "hyperparameter"),
        )
        reward = GaugeMetricFamily(
            "agent_run_reward", "Reward of an active run's last chunk.", labels=names
        )
        loss = GaugeMetricFamily(
            "agent_run_loss",
            "Mean training loss of an active run's last chunk, as reported.",
            labels=names,
        )
        for run, decision in self._newest.values():
            of = (run.controller.spec.name, run.id)
            for hyperparameter, value in decision.values.items():
                action.add_metric((*of, hyperparameter), value)
            if decision.reward is not None:
                reward.add_metric(of, decision.reward)
                loss.add_metric(of, float(decision.state.mean()))
        return [action, reward, loss]
