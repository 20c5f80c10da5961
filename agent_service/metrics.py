"""The agent service's metrics, each declared once.

What can be counted in the store is read there when it is scraped, so that a restart loses nothing;
the rest is observed as decisions become durable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from agent_service.domain.errors import AgentError
from agent_service.domain.ports import Session, Store
from agent_service.domain.runs import Decision, Run

log = logging.getLogger(__name__)

RUN_SERIES_LIMIT = 1000
"""Active runs that have gauges of their own; the rest is only counted."""
_PAGE = 1_000_000
_STATISTICS = (
    "approx_kl",
    "clip_fraction",
    "entropy",
    "explained_variance",
    "policy_loss",
    "value_loss",
)
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """Observes decisions; an `Observer`, thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declare the metrics in `registry`."""
        self._decisions = Counter(
            "agent_decisions_total", "Actions decided.", ("controller", "mode"), registry=registry
        )
        self._action = Histogram(
            "agent_action",
            "Actions decided, as a share of the hyperparameter's range.",
            ("controller", "hyperparameter"),
            buckets=[tenth / 10 for tenth in range(11)],
            registry=registry,
        )
        self._reward = Histogram(
            "agent_reward",
            "Rewards of reported chunks.",
            ("controller",),
            buckets=[tenth / 10 for tenth in range(-10, 11)],
            registry=registry,
        )
        self._run_action = Gauge(
            "agent_run_action",
            "The action that an active run trains under, in the hyperparameter's own unit.",
            ("controller", "run", "hyperparameter"),
            registry=registry,
        )
        self._run_reward = Gauge(
            "agent_run_reward",
            "Reward of an active run's last chunk.",
            ("controller", "run"),
            registry=registry,
        )
        self._run_loss = Gauge(
            "agent_run_loss",
            "Mean training loss of an active run's last chunk.",
            ("controller", "run"),
            registry=registry,
        )
        self._dropped = Counter(
            "agent_run_series_dropped_total",
            "Runs that got no gauges of their own, since too many were active.",
            registry=registry,
        )
        self._commit_seconds = Histogram(
            "agent_journal_commit_seconds",
            "Time of one group commit, from its first statement until it is durable.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "agent_journal_batch_size",
            "Calls in one group commit.",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
            registry=registry,
        )
        self._runs_shown: set[str] = set()

    def committed(self, seconds: float, size: int) -> None:
        """Observe one group commit."""
        self._commit_seconds.observe(seconds)
        self._batch_size.observe(size)

    def decided(self, run: Run, decision: Decision) -> None:
        """Observe a new decision."""
        spec = run.controller.spec
        self._decisions.labels(spec.name, run.mode.value).inc()
        for h in spec.hyperparameters:
            share = (h.unit(decision.values[h.name]) + 1.0) / 2.0
            self._action.labels(spec.name, h.name).observe(share)
        if decision.reward is not None:
            self._reward.labels(spec.name).observe(decision.reward)
        if self._shows(run, decision):
            self._show(run, decision)

    def _shows(self, run: Run, decision: Decision) -> bool:
        if run.id in self._runs_shown:
            return True
        if len(self._runs_shown) < RUN_SERIES_LIMIT:
            self._runs_shown.add(run.id)
            return True
        if decision.chunk == 1:
            self._dropped.inc()
        return False

    def _show(self, run: Run, decision: Decision) -> None:
        name = run.controller.spec.name
        for hyperparameter, value in decision.values.items():
            self._run_action.labels(name, run.id, hyperparameter).set(value)
        if decision.reward is not None:
            self._run_reward.labels(name, run.id).set(decision.reward)
            self._run_loss.labels(name, run.id).set(float(decision.state.mean()))

    def ended(self, run: Run) -> None:
        """Remove a run's gauges."""
        if run.id not in self._runs_shown:
            return
        self._runs_shown.discard(run.id)
        spec = run.controller.spec
        for h in spec.hyperparameters:
            self._run_action.remove(spec.name, run.id, h.name)
        if run.reported_chunks:
            self._run_reward.remove(spec.name, run.id)
            self._run_loss.remove(spec.name, run.id)


class StoreCollector(Collector):
    """Reads from the store, at each scrape, what is kept there."""

    def __init__(self, store: Store) -> None:
        """Read from `store`."""
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of controllers not deleted; none while the store fails."""
        try:
            return self._store.read(_collect)
        except AgentError as error:
            log.warning("the page goes without the store's metrics: %s", error)
            return ()


def _collect(session: Session) -> list[Metric]:
    runs = GaugeMetricFamily("agent_runs", "Runs by state.", labels=("controller", "state"))
    transitions = CounterMetricFamily(
        "agent_transitions", "Complete transitions by use.", labels=("controller", "use")
    )
    version = GaugeMetricFamily(
        "agent_policy_version", "Newest policy version.", labels=("controller",)
    )
    updates = CounterMetricFamily(
        "agent_policy_updates", "Updates of the policy.", labels=("controller",)
    )
    seconds = SummaryMetricFamily(
        "agent_policy_update_seconds", "Time of updates, reading included.", labels=("controller",)
    )
    staleness = GaugeMetricFamily(
        "agent_policy_staleness",
        "Mean versions between deciding and learning, in the last update.",
        labels=("controller",),
    )
    ppo = GaugeMetricFamily(
        "agent_ppo", "Statistics of the last update.", labels=("controller", "statistic")
    )
    for controller in session.list_controllers(after="", limit=_PAGE):
        name, usage = controller.spec.name, session.usage(controller)
        for state, count in usage.runs.items():
            runs.add_metric((name, state.value), count)
        transitions.add_metric((name, "learned"), usage.learned)
        transitions.add_metric((name, "recorded"), usage.recorded)
        version.add_metric((name,), controller.policy_version)
        learned = [v.statistics for v in session.policy_statistics(controller) if v.statistics]
        updates.add_metric((name,), len(learned))
        seconds.add_metric((name,), len(learned), sum(s["seconds"] for s in learned))
        if learned:
            staleness.add_metric((name,), learned[-1]["staleness"])
            for statistic in _STATISTICS:
                if statistic in learned[-1]:
                    ppo.add_metric((name, statistic), learned[-1][statistic])
    return [runs, transitions, version, updates, seconds, staleness, ppo]
