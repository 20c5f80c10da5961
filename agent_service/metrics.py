"""The agent service's metrics, each declared once.

What can be counted in the store is read there when it is scraped, so that a restart loses nothing;
the rest is observed as decisions become durable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from agent_service.domain.errors import AgentError
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.ports import Origin, Session, Store
from agent_service.domain.runs import Decision, Mode, Run
from agent_service.domain.specs import ControllerSpec

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


@dataclass(frozen=True, slots=True)
class _ControllerSeries:
    """A controller's series, found once: looking one up costs as much as counting in it."""

    decisions: Mapping[Mode, Counter]
    actions: Sequence[tuple[Hyperparameter, Histogram]]
    reward: Histogram


@dataclass(slots=True)
class _RunSeries:
    """A run's gauges; its reward and loss come with its first report."""

    actions: Mapping[str, Gauge]
    reward: Gauge | None = None
    loss: Gauge | None = None


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
        self._of_controllers: dict[str, _ControllerSeries] = {}
        self._of_runs: dict[str, _RunSeries] = {}

    def committed(self, seconds: float, size: int) -> None:
        """Observe one group commit."""
        self._commit_seconds.observe(seconds)
        self._batch_size.observe(size)

    def decided(self, run: Run, decision: Decision) -> None:
        """Observe a new decision."""
        spec = run.controller.spec
        of_controller = self._of_controllers.get(spec.name) or self._add_controller(spec)
        of_controller.decisions[run.mode].inc()
        for h, series in of_controller.actions:
            series.observe((h.unit(decision.values[h.name]) + 1.0) / 2.0)
        if decision.reward is not None:
            of_controller.reward.observe(decision.reward)
        if (of_run := self._of_runs.get(run.id) or self._add_run(run, decision)) is not None:
            self._show(run, of_run, decision)

    def _add_controller(self, spec: ControllerSpec) -> _ControllerSeries:
        series = _ControllerSeries(
            decisions={mode: self._decisions.labels(spec.name, mode.value) for mode in Mode},
            actions=[(h, self._action.labels(spec.name, h.name)) for h in spec.hyperparameters],
            reward=self._reward.labels(spec.name),
        )
        self._of_controllers[spec.name] = series
        return series

    def _add_run(self, run: Run, decision: Decision) -> _RunSeries | None:
        """Return the gauges of a run that has none yet; None where too many runs have some."""
        if len(self._of_runs) >= RUN_SERIES_LIMIT:
            if decision.chunk == 1:
                self._dropped.inc()
            return None
        spec = run.controller.spec
        series = _RunSeries(
            actions={
                h.name: self._run_action.labels(spec.name, run.id, h.name)
                for h in spec.hyperparameters
            }
        )
        self._of_runs[run.id] = series
        return series

    def _show(self, run: Run, series: _RunSeries, decision: Decision) -> None:
        for hyperparameter, value in decision.values.items():
            series.actions[hyperparameter].set(value)
        if decision.reward is None:
            return
        if series.reward is None or series.loss is None:
            names = (run.controller.spec.name, run.id)
            series.reward = self._run_reward.labels(*names)
            series.loss = self._run_loss.labels(*names)
        series.reward.set(decision.reward)
        series.loss.set(decision.state.sum() / len(decision.state))

    def ended(self, run: Run) -> None:
        """Remove a run's gauges."""
        series = self._of_runs.pop(run.id, None)
        if series is None:
            return
        name = run.controller.spec.name
        for hyperparameter in series.actions:
            self._run_action.remove(name, run.id, hyperparameter)
        if series.reward is not None:
            self._run_reward.remove(name, run.id)
            self._run_loss.remove(name, run.id)


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
        versions = session.list_policies(controller, before=None, limit=_PAGE)
        learned = [v.statistics for v in versions if v.origin is Origin.LEARNED]
        updates.add_metric((name,), len(learned))
        # A controller that learns from final scores takes no time for it, and is never behind.
        timed = [statistics for statistics in learned if "seconds" in statistics]
        seconds.add_metric((name,), len(timed), sum(s["seconds"] for s in timed))
        if timed:
            newest = timed[0]
            staleness.add_metric((name,), newest["staleness"])
            for statistic in _STATISTICS:
                if statistic in newest:
                    ppo.add_metric((name, statistic), newest[statistic])
    return [runs, transitions, version, updates, seconds, staleness, ppo]
