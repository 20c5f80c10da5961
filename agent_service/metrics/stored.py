"""Metrics read from the store at each scrape, each declared once.

So a restart loses nothing, and all replicas on one store export the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from agent_service.domain.errors import AgentError
from agent_service.domain.runs import Controller, Mode
from agent_service.domain.store import Usage
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.metrics.incremental import IncrementalCounts, Updates
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore

log = logging.getLogger(__name__)

_PAGE = 1_000_000
_STATISTICS = (
    "approx_kl",
    "clip_fraction",
    "entropy",
    "explained_variance",
    "policy_loss",
    "value_loss",
)


class StoreCollector(Collector):
    """Exports the store's metrics, read at each scrape."""

    def __init__(self, store: SqlStore, observed: DecisionMetrics) -> None:
        """Read from `store`, and export `observed` as well, without deleted controllers."""
        self._store = store
        self._observed = observed
        self._incremental = IncrementalCounts()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of existing controllers; without the store's if it fails."""
        seen = self._observed.names()
        readable = GaugeMetricFamily(
            "agent_store_readable", "Whether the store could be read for this scrape: 1 or 0."
        )
        families = _Families(self._incremental)
        try:
            existing = self._store.read(families.read)
        except AgentError as error:
            log.warning("no store metrics: %s", error)
            readable.add_metric((), 0)
            return [readable, *self._observed.collect()]
        # Only controllers seen before the read: newer ones may have been created after it.
        self._observed.forget(seen - existing)
        self._incremental.keep(existing)
        readable.add_metric((), 1)
        return [readable, *families.all(), *self._observed.collect()]


class _Families:
    """The store's metrics for one scrape."""

    def __init__(self, incremental: IncrementalCounts) -> None:
        self._incremental = incremental
        self._runs = _gauge("agent_runs", "Runs by state.", "state")
        self._finished = _counter("agent_finished_runs", "Finished runs by outcome.", "outcome")
        self._transitions = _counter(
            "agent_transitions",
            "Complete transitions, by use: learned from, or only recorded.",
            "use",
        )
        self._filled = _gauge(
            "agent_rollout_filled_ratio",
            "Ratio of ready transitions to those that an update needs; at 1 or more it is due. "
            "For controllers that learn by PPO.",
        )
        self._version = _gauge(
            "agent_policy_version", "Newest policy version; 0 for a controller without a policy."
        )
        self._updates = _counter("agent_policy_updates", "Policy versions that were learned.")
        self._seconds = SummaryMetricFamily(
            "agent_policy_update_seconds",
            "Duration of updates, including the reading of transitions.",
            labels=("controller",),
            unit="seconds",
        )
        self._staleness = _gauge(
            "agent_policy_staleness",
            "Mean number of policy versions between decision and learning, in the last update.",
        )
        self._ppo = _gauge(
            "agent_ppo", "Statistics of stable-baselines3 for the last update.", "statistic"
        )

    def all(self) -> list[Metric]:
        """Return all families, including those without series."""
        return [family for family in vars(self).values() if isinstance(family, Metric)]

    def read(self, session: Session) -> set[str]:
        """Add the series of every controller; return their names."""
        names = set()
        for controller in session.list_controllers(after="", limit=_PAGE):
            names.add(controller.spec.name)
            self._add_counts(controller, session.usage(controller))
            recorded = self._incremental.recorded(session, controller)
            self._transitions.add_metric((controller.spec.name, "recorded"), recorded)
            self._add_updates(controller.spec.name, self._incremental.updates(session, controller))
        return names

    def _add_counts(self, controller: Controller, usage: Usage) -> None:
        name, settings = controller.spec.name, controller.spec.algorithm
        for state, count in usage.runs.items():
            self._runs.add_metric((name, state.value), count)
        for outcome, count in usage.outcomes.items():
            self._finished.add_metric((name, outcome.value), count)
        self._transitions.add_metric((name, "learned"), usage.learned)
        self._version.add_metric((name,), controller.policy_version)
        # A frozen controller's transitions wait until it learns again, and nobody is late.
        if (size := settings.rollout_size) and controller.mode is Mode.LEARNING:
            self._filled.add_metric((name,), usage.ready / size)

    def _add_updates(self, name: str, updates: Updates) -> None:
        self._updates.add_metric((name,), updates.count)
        # A controller that learns from final scores takes no time for it, and is never behind.
        self._seconds.add_metric((name,), updates.timed, updates.seconds)
        if updates.timed:
            self._staleness.add_metric((name,), updates.last["staleness"])
            for statistic in _STATISTICS:
                if statistic in updates.last:
                    self._ppo.add_metric((name, statistic), updates.last[statistic])


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=("controller", *labels))


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=("controller", *labels))
